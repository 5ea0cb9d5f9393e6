"""Check what the project needs of a machine. Each problem is a sentence with its remedy.

Only the standard library is imported, so it runs on any Python since 3.7, before there is a `.venv`.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PORTS = {"embedder": 10001, "embedder-proxy": 10002, "predictor": 10003, "trainer": 10004, "redis": 10005}
ADDRESSES = {"embedder": "PROXY_EMBEDDER_URLS", "embedder-proxy": "PROXY_URL", "predictor": "PREDICTOR_URL"}
GB = 1e9
DISK_NEEDED, MEMORY_NEEDED = 5 * GB, 3 * GB
FORMERLY = {"EMBEDDER_PROXY_PORT": "PROXY_PORT"}  # a deprecated variable, and its new name
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_SMALL_PACKAGE = "iniconfig==2.3.1"  # of constraints.txt; 8 kB


@dataclass(frozen=True)
class Finding:
    """Result of a check. remedy : what to do if something is missing, None if all is well."""

    what: str
    remedy: str | None = None

    @property
    def good(self) -> bool:
        return self.remedy is None


def find_python() -> str | None:
    """Return the path of the Python 3.11 for `.venv`: PYTHON, or else the first on PATH."""
    for name in (os.environ.get("PYTHON"), "python3.11", "python3", "python"):
        path = shutil.which(name) if name else None
        if path and _runs(path, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 11))"):
            return path
    return None


def python() -> Finding:
    """Check for a Python 3.11 that can make virtual environments."""
    path = find_python()
    if path is not None and _runs(path, "-c", "import ensurepip, venv"):
        return Finding(f"Python 3.11: {path}")
    if path is not None:
        return Finding(
            f"{path} cannot make virtual environments",
            "Install its venv module (Debian, Ubuntu: apt install python3.11-venv).",
        )
    return Finding(
        "Python 3.11 was not found (this is " + ".".join(map(str, sys.version_info[:3])) + ")",
        "Install it (Debian 12: apt install python3.11 python3.11-venv; elsewhere: uv python install 3.11, "
        "or pyenv install 3.11) and, if it is not on PATH, name it: PYTHON=/path/to/python3.11 make setup",
    )


def disk(free: float | None = None) -> Finding:
    """Check the free disk space for `.venv`, models and a few data sets. free : bytes, default: measured."""
    free = shutil.disk_usage(".").free if free is None else free
    if free >= DISK_NEEDED:
        return Finding(f"{free / GB:.0f} GB of disk free")
    return Finding(
        f"Only {free / GB:.1f} GB of disk are free here",
        f"About {DISK_NEEDED / GB:.0f} GB are needed for packages and models. Free some, or clone to a "
        "larger disk.",
    )


def memory(total: float | None = None) -> Finding:
    """Check the memory of the machine or container. total : bytes, measured by default."""
    total = memory_limit() if total is None else total
    if total >= MEMORY_NEEDED:
        return Finding(f"{total / GB:.0f} GB of memory")
    return Finding(
        f"This machine has only {total / GB:.1f} GB of memory",
        f"About {MEMORY_NEEDED / GB:.0f} GB are needed. Give a virtual machine or Docker Desktop more; "
        "otherwise close other programs, and keep WORKERS at 1.",
    )


def memory_limit() -> float:
    """Return the machine's memory in bytes, or the control group's limit if it is lower."""
    total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, float(Path(path).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return total


def chosen_ports() -> dict[str, int]:
    """Return the port of each program that is started.

    Redis is not started if REDIS_URL is set, nor a service that is `elsewhere`.
    """
    ports = _all_ports()
    if os.environ.get("REDIS_URL"):
        del ports["redis"]
    absent = elsewhere()
    return {name: port for name, port in ports.items() if name not in absent}


def _all_ports() -> dict[str, int]:
    """Return each program's port: `PREDICTOR_PORT` and so on, else the default, which `PORTS` moves.

    `PORTS` is the first of five ports in a row.
    """
    first = whole_number("PORTS", min(PORTS.values()))
    moved = {name: port - min(PORTS.values()) + first for name, port in PORTS.items()}
    ports = dict(moved)
    for name, port in moved.items():
        former = next((old for old, new in FORMERLY.items() if new == variable(name)), None)
        default = port if former is None else whole_number(former, port)
        ports[name] = whole_number(variable(name), default)
    return ports


def elsewhere() -> dict[str, str]:
    """Return the services that are not started, and the variable that names another address.

    A proxy elsewhere has embedders of its own.
    """
    ports, given = _all_ports(), given_addresses()
    found = {
        name: variable
        for name, variable in ADDRESSES.items()
        if variable in given and not _is_here(given[variable], ports[name])
    }
    return {"embedder": "PROXY_URL", **found} if "embedder-proxy" in found else found


def given_addresses() -> dict[str, str]:
    """Return the addresses of services that the environment has, by variable."""
    return {name: os.environ[name] for name in ADDRESSES.values() if os.environ.get(name, "").strip()}


def _is_here(addresses: str, port: int) -> bool:
    """Return whether one of the addresses, separated by commas or lines, is a port of this machine."""
    here = {f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")}
    return any(urlsplit(address.strip()).netloc.lower() in here for address in re.split(r"[,\n]", addresses))


def deprecations() -> list[str]:
    """Return a sentence for each deprecated variable that is set."""
    return [
        f"{old} is deprecated. Use {new}; the next release ignores {old}."
        for old, new in FORMERLY.items()
        if os.environ.get(old)
    ]


def whole_number(name: str, default: int) -> int:
    """Return an environment variable as a number; empty, as Compose passes unset ones, means the default."""
    given = os.environ.get(name, "").strip()
    if not given:
        return default
    if not (given.isascii() and given.isdigit()):
        sys.exit(f"error: {name}={given!r} is not a whole number; expected one such as {default}")
    return int(given)


def listed(used: dict[str, int]) -> str:
    """Return ports with the programs they are for."""
    return ", ".join(f"port {port} ({name})" for name, port in used.items())


def ports_remedy(used: dict[str, int]) -> str:
    """Return what to do about ports that are in use: a single line that moves all of them."""
    set_one_by_one = [variable(name) for name in used if os.environ.get(variable(name))]
    remedy = (
        "Stop the program that listens there (make down for an earlier make up, docker compose down for the "
        f"containers), or move all ports: PORTS={free_range()} make up"
    )
    return f"{remedy}, without {', '.join(set_one_by_one)}" if set_one_by_one else remedy


def free_range() -> int:
    """Return the first of as many free ports in a row as there are programs."""
    for first in range(min(PORTS.values()) + 10_000, 60_000, 100):
        if not any(is_taken(first + offset) for offset in range(len(PORTS))):
            return first
    return free_port()  # the ports are in use as in no system that we know


def variable(name: str) -> str:
    """Return the environment variable that sets a program's port."""
    return f"{name.rpartition('-')[2].upper()}_PORT"


def is_taken(port: int) -> bool:
    """Return whether a program listens on a local port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def free_port() -> int:
    """Return a free port below Linux's ephemeral ports.

    It is random, so that processes which start at the same time rarely get the same one.
    """
    draws = random.SystemRandom()  # independent of the seeds that tests set
    while True:
        port = draws.randrange(20_000, 32_000)
        if not is_taken(port):
            return port


def package_index() -> Finding:
    """Check that pip, as configured, reaches its package index, by downloading a small package."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--retries",
            "0",
            "--timeout",
            "10",
        ]
        done = _run(*command, "download", "-q", "--no-deps", "--no-cache-dir", "-d", folder, _SMALL_PACKAGE)
    if done is not None and done.returncode == 0:
        return Finding("pip reaches its package index")
    if done is not None and "No module named pip" in done.stderr:
        return Finding("not checked whether pip reaches its package index: this Python has no pip")
    return Finding(
        "pip does not reach its package index, so nothing can be installed",
        "Check the network. Behind a proxy set HTTPS_PROXY; for another index set PIP_INDEX_URL. "
        "Without a network see docs/deployment.md, Air-gapped.",
    )


def docker() -> Finding:
    """Check for a Docker engine that answers, and for Compose."""
    only = "Only docker compose up and make compose-test need it; make up and make demo do not."
    if shutil.which("docker") is None:
        return Finding("Docker is not installed", f"https://docs.docker.com/engine/install. {only}")
    done = _run("docker", "info")
    if done is None or done.returncode != 0:
        output = "" if done is None else done.stdout + done.stderr
        if "permission denied" in output.lower():
            return Finding(
                "Docker runs, but this user may not use it",
                f"sudo usermod -aG docker $USER, then log in again. {only}",
            )
        return Finding(
            "Docker is installed, but its engine does not answer",
            f"Start it (Linux: sudo systemctl start docker; else start Docker Desktop). {only}",
        )
    if not _runs("docker", "compose", "version") and not _runs("docker-compose", "--version"):
        return Finding(
            "Docker runs, but Compose is missing",
            "Install it (Debian: apt install docker-compose; Docker's own packages: docker-compose-plugin). "
            f"{only}",
        )
    return Finding("a Docker engine, with Compose")


def chromium() -> Finding:
    """Check for Chromium."""
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return Finding("Chromium")
    return Finding("Chromium is missing", "Only the browser tests need it (Debian: apt install chromium).")


def gpu() -> Finding:
    """Check for an NVIDIA GPU."""
    if shutil.which("nvidia-smi") is not None and _runs("nvidia-smi", "-L"):
        return Finding("an NVIDIA GPU")
    return Finding("no NVIDIA GPU", "It is optional; docs/deployment.md describes its use.")


def required() -> list[Finding]:
    """Check what `make up` and `make demo` need."""
    return [python(), disk(), memory(), package_index()]


def optional() -> list[Finding]:
    """Check what only some commands need."""
    return [docker(), chromium(), gpu()]


def _runs(*command: str) -> bool:
    done = _run(*command)
    return done is not None and done.returncode == 0


def _run(*command: str) -> subprocess.CompletedProcess[str] | None:
    """Run a program; return None if there is none of that name or it hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
