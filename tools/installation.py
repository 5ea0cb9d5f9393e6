"""Check this installation: its ports and services, `.env`, the data folder, Redis and the clock.

Only the standard library is imported, as in `tools.machine`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tools.machine import GB, Finding, chosen_ports, elsewhere, is_taken, listed, ports_remedy

ROOT = Path(__file__).resolve().parent.parent
TITLES = {  # of the OpenAPI document of each service, which needs no key
    "embedder": "insightface",
    "embedder-proxy": "age-gender embedder-proxy",
    "predictor": "age-gender predictor",
    "trainer": "age-gender trainer",
}
DATA_NEEDED = 1 * GB
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SECONDS = 3.0
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$")
# Variables of other programs that a `.env` may have: make's, pip's, Docker's, and those of proxies.
_OTHERS = re.compile(
    r"PORTS|PYTHON|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy|(PIP|COMPOSE|DOCKER|OMP|MKL|CUDA|NVIDIA|TZ)(_\w+)?"
)


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the assignments of a `.env` file; empty if there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found = [match for match in map(_ASSIGNMENT.match, lines) if match is not None]
    return {match[1]: match[2].strip("'\"") for match in found}


def known_variables() -> set[str]:
    """Return the variables that the documentation lists or a Compose file reads."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[A-Z0-9_]+`(?: or `[A-Z0-9_]+`)*) \|", page, re.M)
    known = {name for row in rows for name in re.findall(r"[A-Z0-9_]+", row)}
    for path in ROOT.glob("docker-compose*.yml"):
        known |= set(re.findall(r"\$\{([A-Z0-9_]+)", path.read_text(encoding="utf-8")))
    return known


def dotenv(path: Path) -> Finding:
    """Check that every variable of `.env` is read by something."""
    if not path.exists():
        return Finding("no .env; all settings have their defaults or come from the environment")
    known = known_variables()
    unread = [name for name in read_dotenv(path) if name not in known and not _OTHERS.fullmatch(name)]
    if not unread:
        return Finding("every variable of .env is read")
    return Finding(
        f"Nothing reads these variables of .env: {', '.join(unread)}",
        "; ".join(_nearest(name, known) for name in unread) + ". docs/configuration.md lists all.",
    )


def _nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name.upper(), sorted(known), 1)
    return f"{name}: did you mean {close[0]}?" if close else f"{name}: remove it"


def ports() -> Finding:
    """Check that each port of `make up` is free, or that the service for it runs there already."""
    all_ports = chosen_ports()
    taken = {name: port for name, port in all_ports.items() if is_taken(port)}
    ours = {name: port for name, port in taken.items() if runs_here(name, port)}
    foreign = {name: port for name, port in taken.items() if name not in ours}
    if foreign:
        return Finding(f"In use by another program: {listed(foreign)}", ports_remedy(foreign))
    if ours:
        return Finding(f"runs here already: {listed(ours)}")
    return Finding("the ports are free: " + ", ".join(map(str, all_ports.values())))


def services() -> Finding:
    """State which services `make up` does not start, because a variable names another address."""
    absent = elsewhere()
    if not absent:
        return Finding("make up starts every service")
    named = ", ".join(f"{name} ({variable})" for name, variable in absent.items())
    return Finding(f"elsewhere, and not started by make up: {named}")


def runs_here(name: str, port: int) -> bool:
    """Return whether the service of this name, of this or another checkout, listens on the port."""
    if name == "redis":
        reply = _redis_reply(port)
        return reply.startswith((b"+PONG", b"-NOAUTH"))
    try:
        with _DIRECT.open(f"http://127.0.0.1:{port}/openapi.json", timeout=_SECONDS) as answer:
            return bool(json.load(answer)["info"]["title"] == TITLES[name])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _redis_reply(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), _SECONDS) as connection:
            connection.settimeout(_SECONDS)
            connection.sendall(b"PING\r\n")
            return connection.recv(100)
    except OSError:
        return b""


def data_folder() -> Finding:
    """Check that `make up` can write into the data folder, and that its volume has space."""
    folder = Path(os.environ.get("DATA_DIR") or ROOT / "data")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        owner = existing.stat().st_uid
        return Finding(
            f"{folder} is not writable: {error.strerror}. It belongs to user {owner}",
            f'sudo chown "$(id -u)" {folder}, and the folders in it that another user made.',
        )
    free = shutil.disk_usage(existing).free
    if free < DATA_NEEDED:
        return Finding(
            f"Only {free / GB:.1f} GB are free for {folder}",
            "Running jobs fail once it is full: agegender prune --older-than 30d, or enlarge the volume.",
        )
    return Finding(f"{folder} is writable, {free / GB:.0f} GB free")


def own_redis() -> Finding:
    """Check that the Redis of REDIS_URL answers, and that it never evicts jobs."""
    url = os.environ.get("REDIS_URL")
    if not url:
        return Finding("make up starts a Redis of its own")
    shown = urlsplit(url).hostname or url
    try:
        info = _redis_info(url)
    except (OSError, ValueError) as error:
        return Finding(
            f"The Redis of REDIS_URL ({shown}) does not answer: {error}",
            "Start it, or correct REDIS_URL or REDIS_PASSWORD. Without REDIS_URL, make up starts its own.",
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return Finding(
            f"The Redis of REDIS_URL ({shown}) evicts keys if its memory is full: maxmemory-policy {policy}",
            "It may evict jobs. Set maxmemory-policy noeviction; the cache of faces limits itself.",
        )
    return Finding(f"the Redis of REDIS_URL ({shown}) answers")


def _redis_info(url: str) -> dict[str, str]:
    """Return `INFO memory`. Raises `OSError` and `ValueError`."""
    parts = urlsplit(url)
    password = unquote(parts.password) if parts.password else os.environ.get("REDIS_PASSWORD", "")
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_SECONDS)
        connection.connect(parts.path)
    else:
        connection = socket.create_connection((parts.hostname or "", parts.port or 6379), _SECONDS)
    with connection:
        if parts.scheme == "rediss":
            (authority,) = parse_qs(parts.query).get("ssl_ca_certs", [None])
            context = ssl.create_default_context(cafile=authority)
            connection = context.wrap_socket(connection, server_hostname=parts.hostname)
        with connection, connection.makefile("rb") as replies:
            if password:
                words = ["AUTH", *([parts.username] if parts.username else []), password]
                _command(connection, words)
                _require_no_error(replies.readline())
            _command(connection, ["INFO", "memory"])
            head = _require_no_error(replies.readline())
            lines = replies.read(int(head[1:])).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _command(connection: socket.socket, words: list[str]) -> None:
    encoded = [word.encode() for word in words]
    parts = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
    connection.sendall(b"*%d\r\n%s" % (len(encoded), parts))


def _require_no_error(line: bytes) -> bytes:
    if not line or line.startswith(b"-"):
        raise ValueError(line.decode(errors="replace").strip("-\r\n") or "it closed the connection")
    return line


def clock(now: float | None = None) -> Finding:
    """Check the clock: wrong ones break TLS, signed requests, and the order of heads and runs.

    now : seconds since 1970, default: measured.
    """
    now = time.time() if now is None else now
    newest = max(path.stat().st_mtime for path in (ROOT / "Makefile", ROOT / "CHANGELOG.md"))
    if now < newest - 60:
        return Finding(
            f"The clock is at {time.strftime('%Y-%m-%d %H:%M', time.gmtime(now))} UTC, before this checkout",
            "Set it, and let it be synchronised (Linux: sudo timedatectl set-ntp true).",
        )
    if _synchronised() is False:
        return Finding(
            "The clock is not synchronised", "Linux: sudo timedatectl set-ntp true, or start chronyd."
        )
    return Finding("the clock is plausible" if _synchronised() is None else "the clock is synchronised")


def _synchronised() -> bool | None:
    """Return whether systemd reports it; None if there is no systemd."""
    try:
        command = ["timedatectl", "show", "--property", "NTPSynchronized", "--value"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


def checks() -> list[Finding]:
    """Check what `make up` needs of this installation."""
    return [ports(), services(), data_folder(), own_redis(), dotenv(ROOT / ".env"), clock()]
