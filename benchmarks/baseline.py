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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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
_CROPS = 8  # in a request, as a worker sends them
_STARTS = 2
Environment = Literal["UNCACHED", "PATIENT"]  # of benchmarks.serving
_ANSWERS = 15  # to take the stages' medians of
_NETWORKS = (
    "networks take most of the time, above all SFace, which 8 bits do not make faster (docs/results/speed.md)"
)
_HTTP = "the client and HTTP take most of the time, on both sides"
_FRAGMENTS = "differs by 60 MB from run to run, as malloc's memory is fragmented"
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
class System:
    """A running system: its services' addresses, the seconds until it was ready, and its first process."""

    urls: Mapping[str, str]
    seconds: float
    process: psutil.Process

    def megabytes(self) -> tuple[float, float]:
        """Return the memory of all its processes, shared pages divided, and the peak of the embedder."""
        processes = self.process.children(recursive=True)
        total = sum(process.memory_full_info().pss for process in processes) / 2**20
        status = Path("/proc", str(self.pid_of("embedder")), "status").read_text()
        return total, int(status.split("VmHWM:")[1].split()[0]) / 1024

    def pid_of(self, module: str) -> int:
        """Return the process ID of the service that runs as `python -m MODULE`."""
        processes = self.process.children(recursive=True)
        return next(one.pid for one in processes if one.cmdline()[-2:] == ["-m", module])


def rows() -> list[Row]:
    problem = set_up()
    if problem:
        return [Row("earlier commit", _AGAINST, None, note=problem)]
    return [*_latencies(), *_cached(), *_alone()]


def set_up() -> str:
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
def running(folder: Path, environment: Environment) -> Iterator[System]:
    python = Path(sys.executable) if folder == ROOT else folder / ".venv" / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-c", _PROGRAM, environment]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, env=clean, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            urls, seconds = json.loads(process.stdout.readline())
            yield System(urls, seconds, psutil.Process(process.pid))
        finally:
            process.stdin.close()
            process.wait()


@contextmanager
def _both(environment: Environment) -> Iterator[tuple[System, System, httpx.Client]]:
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(running(folder, environment)) for folder in (ROOT, FOLDER))
        yield ours, theirs, stack.enter_context(httpx.Client(timeout=120, trust_env=False))


def _latencies() -> list[Row]:
    shown = photographs_by_faces(human())
    crop, photograph, phone = one_face(), PHOTOGRAPH.read_bytes(), _phone_photograph(shown[3])
    mixed = [shown[1 + number % len(shown)] for number in range(_LOAD)]
    with _both("UNCACHED") as (ours, theirs, http):

        def answer(system: System, image: bytes) -> httpx.Response:
            url = f"{system.urls['predictor']}/age-gender"
            return http.post(url, content=image).raise_for_status()

        def post(system: System, image: bytes) -> None:
            answer(system, image)

        def row(what: str, goal: float, work: Callable[[System], object], repeats: int) -> Row:
            sides = (lambda: work(ours), lambda: work(theirs))
            return compared(what, _AGAINST, goal, *sides, repeats, if_missed=_NETWORKS)

        def load(system: System) -> None:
            at_once(lambda image: post(system, image), mixed)

        crops = [("image", (str(number), crop + bytes(number))) for number in range(_CROPS)]

        def extract(system: System) -> None:
            http.post(f"{system.urls['embedder-proxy']}/faces", files=crops).raise_for_status()

        def latency(image: bytes, what: str, goal: float, repeats: int) -> Row:
            found = row(f"POST /age-gender, {what}", goal, lambda system: post(system, image), repeats)
            stages = [
                f"{name} {_stages([answer(system, image) for _ in range(_ANSWERS)])}"
                for name, system in (("ours", ours), ("before", theirs))
            ]
            return replace(found, note="; ".join(stages))

        unaccounted = statistics.median(_unaccounted(answer(ours, crop)) for _ in range(20))
        return [
            latency(crop, "one small crop", 2.5, 10),
            latency(photograph, "t1.jpg (six faces)", 3, 6),
            latency(phone, "12 megapixels, three faces", 3, 4),
            row("throughput, 16 clients, one to six faces", 2.5, load, 2),
            row("requests of an extraction: eight crops each", 2.5, extract, 4),
            Row("unaccounted time of a request", "one small crop", unaccounted, Goal(4, True), " ms"),
        ]


def _phone_photograph(image: bytes) -> bytes:
    """Return the image as large as it fits a phone's photograph; stretched, its faces would be no faces."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(image)) as small:
        ImageOps.pad(small, _PHONE, Image.Resampling.BICUBIC, "grey").save(file, "JPEG", quality=90)
    return file.getvalue()


def _stages(responses: Sequence[httpx.Response]) -> str:
    """Return the median milliseconds by stage that responses report, and what no stage accounts for."""
    timings = [response.json()["timings"] for response in responses]
    medians = {stage: statistics.median(one.get(stage, 0.0) for one in timings) for stage in _STAGES}
    medians["not named"] = statistics.median(map(_unaccounted, responses))
    return ", ".join(f"{stage} {value:.1f}" for stage, value in medians.items() if value >= 0.05) + " ms"


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

            def hit(system: System, service: str = service, path: str = path) -> None:
                http.post(system.urls[service] + path, content=image).raise_for_status()

            sides = (lambda f=hit: f(ours), lambda f=hit: f(theirs))
            found.append(compared(what, _AGAINST, goal, *sides, 15, if_missed=_HTTP))
    return found


def _alone() -> list[Row]:
    """Measure start and memory of one system at a time."""
    shown = photographs_by_faces(human())
    number = count()
    seconds: dict[Path, list[float]] = {ROOT: [], FOLDER: []}
    memory: dict[Path, tuple[float, float]] = {}
    for _ in range(_STARTS):
        for folder, starts in seconds.items():
            with running(folder, "UNCACHED") as system, httpx.Client(timeout=120, trust_env=False) as http:
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
        Row(
            "peak of the embedder",
            _AGAINST,
            ours[1] / theirs[1],
            Goal(0.7, True),
            note=f"{ours[1]:.0f} MB",
            if_missed=_FRAGMENTS,
        ),
    ]
