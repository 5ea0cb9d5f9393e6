"""Compare with an earlier commit: both systems run beside each other, and requests alternate between them.

The commit is checked out and set up in `.run/baseline` (`make setup` there, some minutes the first time).
Only the start and the memory are measured with one system alone.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import httpx
import psutil
from PIL import Image, ImageOps

from benchmarks.packs import human
from benchmarks.photographs import one_face, photographs_by_faces
from benchmarks.serving import at_once
from benchmarks.table import Goal, Row, compared
from tools.stack import PHOTOGRAPH, ROOT

COMMIT = "cf0d00ae3685b975d3e94ed4f2bba09996a10ae6"
FOLDER = ROOT / ".run" / "baseline"
_AGAINST = f"commit {COMMIT[:7]}, by turns"
_PHONE = (4000, 3000)  # pixels
_LOAD = 32  # requests
_STARTS = 2
Environment = Literal["UNCACHED", "PATIENT"]  # of benchmarks.serving
_STAGES = ("read", "check", "cache", "queue", "decode", "detect", "embed", "transfer", "heads", "answer")

# Run by the Python of either checkout, in its folder: starts its system until standard input closes. The
# environment is the one that the checkout names, because settings have changed their names since.
_PROGRAM = """
import json, sys, time
from benchmarks import serving
started = time.perf_counter()
with serving.running(**getattr(serving, sys.argv[1])) as stack:
    urls = {name: stack.url(name) for name in ("embedder", "embedder-proxy", "predictor")}
    print(json.dumps([urls, time.perf_counter() - started]), flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class _System:
    """A running system: its services' addresses, the seconds until it was ready, and its first process."""

    urls: Mapping[str, str]
    seconds: float
    process: psutil.Process

    def megabytes(self) -> tuple[float, float]:
        """Return the memory of all its processes, shared pages divided, and the peak of the embedder."""
        total, peak = 0.0, 0.0
        for process in self.process.children(recursive=True):
            total += process.memory_full_info().pss / 2**20
            if process.cmdline()[-2:] == ["-m", "embedder"]:
                status = Path("/proc", str(process.pid), "status").read_text()
                peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        return total, peak


def rows() -> list[Row]:
    problem = _set_up()
    if problem:
        return [Row("earlier commit", _AGAINST, None, note=problem)]
    return [*_latencies(), *_cached(), *_alone()]


def _set_up() -> str:
    """Check the commit out and set it up; return why that is impossible, or an empty text."""
    if (FOLDER / ".ready").exists():
        return ""
    done = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True)
    if done.returncode:
        return f"not measured: this checkout has no commit {COMMIT[:7]}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-x", "-C", str(FOLDER)], input=done.stdout, check=True)
    if subprocess.run(["make", "-s", "setup"], cwd=FOLDER).returncode:
        return f"not measured: `make setup` failed in {FOLDER}"
    (FOLDER / ".ready").touch()
    return ""


@contextmanager
def _running(folder: Path, environment: Environment) -> Iterator[_System]:
    python = Path(sys.executable) if folder == ROOT else folder / ".venv" / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-c", _PROGRAM, environment]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, env=clean, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            urls, seconds = json.loads(process.stdout.readline())
            yield _System(urls, seconds, psutil.Process(process.pid))
        finally:
            process.stdin.close()
            process.wait()


@contextmanager
def _both(environment: Environment) -> Iterator[tuple[_System, _System, httpx.Client]]:
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(_running(folder, environment)) for folder in (ROOT, FOLDER))
        yield ours, theirs, stack.enter_context(httpx.Client(timeout=120, trust_env=False))


def _latencies() -> list[Row]:
    shown = photographs_by_faces(human())
    crop, photograph, phone = one_face(), PHOTOGRAPH.read_bytes(), _phone_photograph(shown[3])
    mixed = [shown[1 + number % len(shown)] for number in range(_LOAD)]
    with _both("UNCACHED") as (ours, theirs, http):

        def answer(system: _System, image: bytes) -> httpx.Response:
            url = f"{system.urls['predictor']}/age-gender"
            return http.post(url, content=image).raise_for_status()

        def post(system: _System, image: bytes) -> None:
            answer(system, image)

        def row(what: str, goal: float, work: Callable[[_System], object], repeats: int) -> Row:
            return compared(what, _AGAINST, goal, lambda: work(ours), lambda: work(theirs), repeats)

        def load(system: _System) -> None:
            at_once(lambda image: post(system, image), mixed)

        unaccounted = statistics.median(_unaccounted(answer(ours, crop)) for _ in range(20))
        return [
            row("POST /age-gender, one small crop", 2.5, lambda system: post(system, crop), 10),
            row("POST /age-gender, t1.jpg (six faces)", 3, lambda system: post(system, photograph), 6),
            row("POST /age-gender, 12 megapixels, three faces", 3, lambda system: post(system, phone), 4),
            row("throughput, 16 clients, one to six faces", 2.5, load, 2),
            Row("unaccounted time of a request", "one small crop", unaccounted, Goal(4, True), " ms"),
        ]


def _phone_photograph(image: bytes) -> bytes:
    """Return the image as large as it fits a phone's photograph; stretched, its faces would be no faces."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(image)) as small:
        ImageOps.pad(small, _PHONE, Image.Resampling.BICUBIC, "grey").save(file, "JPEG", quality=90)
    return file.getvalue()


def _unaccounted(response: httpx.Response) -> float:
    """Return the milliseconds of a response that no stage names."""
    timings = response.json()["timings"]
    return float(timings["total"] - sum(timings.get(stage, 0.0) for stage in _STAGES))


def _cached() -> list[Row]:
    image = one_face()
    with _both("PATIENT") as (ours, theirs, http):
        found = []
        for what, service, path, goal in (
            ("cache hit, seen by the client, one face", "embedder-proxy", "/faces", 2.0),
            ("POST /age-gender, cached face", "predictor", "/age-gender", None),
        ):

            def hit(system: _System, service: str = service, path: str = path) -> None:
                http.post(system.urls[service] + path, content=image).raise_for_status()

            found.append(
                compared(what, _AGAINST, goal, lambda f=hit: f(ours), lambda f=hit: f(theirs), 15)  # type: ignore[misc]
            )
    return found


def _alone() -> list[Row]:
    """Measure start and memory of one system at a time."""
    shown = photographs_by_faces(human())
    number = count()
    seconds: dict[Path, list[float]] = {ROOT: [], FOLDER: []}
    memory: dict[Path, tuple[float, float]] = {}
    for _ in range(_STARTS):
        for folder, starts in seconds.items():
            with _running(folder, "UNCACHED") as system, httpx.Client(timeout=120, trust_env=False) as http:
                starts.append(system.seconds)
                url = f"{system.urls['predictor']}/age-gender"
                images = [shown[1 + next(number) % len(shown)] for _ in range(_LOAD)]
                at_once(lambda image, url=url, http=http: http.post(url, content=image), images)  # type: ignore[misc]
                time.sleep(1)
                memory[folder] = system.megabytes()
    ours, theirs = memory[ROOT], memory[FOLDER]
    start = min(seconds[ROOT]) / min(seconds[FOLDER])
    return [
        Row("start until ready", _AGAINST, start, Goal(0.6, True), note=f"{min(seconds[ROOT]):.1f} s"),
        Row(
            "memory of all services", _AGAINST, ours[0] / theirs[0], Goal(0.7, True), note=f"{ours[0]:.0f} MB"
        ),
        Row("peak of the embedder", _AGAINST, ours[1] / theirs[1], Goal(0.7, True), note=f"{ours[1]:.0f} MB"),
    ]
