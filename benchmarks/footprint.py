"""Measure start-up time and memory of each service, and the sizes of the images."""

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import httpx

from benchmarks.packs import human
from benchmarks.photographs import photographs_by_faces
from benchmarks.serving import UNCACHED, at_once, running
from benchmarks.table import Goal, Row
from tools.stack import Stack

SERVICES = ("predictor", "embedder-proxy", "embedder", "trainer")
STARTS, ROUNDS = 3, 10
_READY, _MEGABYTES = Goal(3, at_most=True), Goal(400, at_most=True)
_PROBE = "import shutil; print([name for name in ('gcc', 'cc', 'g++', 'make', 'ld') if shutil.which(name)])"


def rows() -> list[Row]:
    with running(**UNCACHED) as stack, httpx.Client(timeout=120, trust_env=False) as http:
        at_rest = _memory(stack)
        url = f"{stack.url('predictor')}/age-gender"
        shown = list(photographs_by_faces(human()).values())

        def post(image: bytes) -> None:
            http.post(url, content=image).raise_for_status()

        at_once(post, shown * ROUNDS)
        loaded = _memory(stack)
        return [*_memories(at_rest, loaded), *(_start(stack, name) for name in SERVICES), *image_rows()]


def _memories(at_rest: dict[str, int], loaded: dict[str, int]) -> list[Row]:
    return [
        Row(
            f"memory of {name} under load",
            "resident, 16 clients",
            loaded[name],
            _MEGABYTES if name == "predictor" else None,
            " MB",
            note=f"{at_rest[name]} MB at rest",
        )
        for name in at_rest
    ]


def _memory(stack: Stack) -> dict[str, int]:
    """Return the resident memory of each program in MB; wait until all have run for a second."""
    found, names = {}, (*SERVICES, "trainer-worker-1")
    while not set(names) <= (pids := stack.pids()).keys():
        time.sleep(0.1)
    for name in names:
        status = Path("/proc", str(pids[name]), "status").read_text()
        found[name] = int(status.split("VmRSS:")[1].split()[0]) // 1024
    return found


def _start(stack: Stack, name: str) -> Row:
    seconds = statistics.median(_restart(stack, name) for _ in range(STARTS))
    return Row(
        f"{name}, restart until ready",
        "killed; supervisor restarts it",
        seconds,
        _READY if name == "predictor" else None,
        " s",
    )


def _restart(stack: Stack, name: str) -> float:
    stack.kill(name)
    started = time.monotonic()
    while True:
        try:
            if httpx.get(f"{stack.url(name)}/health/ready", timeout=1, trust_env=False).is_success:
                return time.monotonic() - started
        except httpx.TransportError:
            pass
        time.sleep(0.02)


def image_rows() -> list[Row]:
    """Return the sizes of the images that Compose built, if there is an engine, and compilers in them."""
    done = _docker("images", "--filter=dangling=false", "--format", "{{json .}}")
    images = [json.loads(line) for line in done.splitlines()]
    own = {listed["Repository"]: listed["Size"] for listed in images if "age-gender" in listed["Repository"]}
    if not own:
        return [Row("image sizes", "", None, note="no Docker engine, or `docker compose build` has not run")]
    return [
        Row(
            f"image {name}",
            "",
            _megabytes(size),
            None,
            " MB",
            note=f"compilers inside: {_compilers(name)}",
        )
        for name, size in sorted(own.items())
    ]


def _compilers(image: str) -> str:
    found = _docker("run", "--rm", "--network=none", "--entrypoint", "python", image, "-c", _PROBE).strip()
    return {"[]": "none", "": "unknown"}.get(found, found)


def _megabytes(size: str) -> float:
    number = float(size.rstrip("kMGB"))
    return number * {"k": 0.001, "M": 1, "G": 1000}[size[-2]]


def _docker(*words: str) -> str:
    environment = {**os.environ, "PATH": "/usr/bin:" + os.environ["PATH"]}
    command = ["docker", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
