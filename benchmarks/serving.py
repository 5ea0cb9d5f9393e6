"""The native system under HTTP, against the same work called in one process; and what starts and stays."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
from agegender.heads.checkpoints import heads_directory, load_head, read_current
from agegender.heads.head import Head, Task
from agegender.images import ImageLimits, decode
from embedder.packs.pack import Pack

from benchmarks.packs import human
from benchmarks.photographs import pictures
from benchmarks.table import Row, compared
from tools.stack import ROOT, Stack, free_ports

CLIENTS, REQUESTS = 16, 96
HEADS = ROOT / "services" / "predictor" / "heads"


@contextmanager
def running(**environment: str) -> Iterator[Stack]:
    with TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "data", Path(folder), free_ports(), environment=environment)
        stack.start()
        try:
            stack.wait_ready()
            yield stack
        finally:
            stack.stop()


def rows() -> list[Row]:
    pack = human()
    shown = pictures(pack)
    heads = _heads(pack)

    def here(picture: bytes) -> None:
        """Detect, align, embed and both heads with intervals, in this process."""
        faces = pack.faces([decode(picture, ImageLimits())])[0]
        embeddings = np.array([face.embedding for face in faces], np.float32)
        for head in heads:
            probabilities = head.probabilities(embeddings)
            if head.manifest.conformal is not None:
                head.manifest.conformal.intervals(probabilities, 0.9)

    with running(PROXY_CACHE_TTL="0") as stack, httpx.Client(timeout=120) as http:
        url = f"{stack.url('predictor')}/age-gender"

        def there(picture: bytes) -> None:
            http.post(url, content=picture, headers={"Content-Type": "image/jpeg"}).raise_for_status()

        idle = compared(
            "POST /age-gender, one face, idle",
            "detect, align, embed and heads called in one process",
            1 / 1.15,
            lambda: there(shown[1]),
            lambda: here(shown[1]),
            40,
            "goal: at most 1.15 times as long",
        )
        mixed = [shown[1 + number % len(shown)] for number in range(REQUESTS)]
        busy = compared(
            f"throughput, {CLIENTS} clients, one to six faces",
            "the same pictures one after the other in one process on both cores",
            0.9,
            lambda: _at_once(there, mixed),
            lambda: _in_turn(here, mixed),
            2,
        )
    return [idle, busy, _cache(shown[1])]


def _at_once(post: Callable[[bytes], None], pictures: list[bytes]) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(post, pictures))


def _in_turn(work: Callable[[bytes], None], pictures: list[bytes]) -> None:
    for picture in pictures:
        work(picture)


def _cache(picture: bytes) -> Row:
    """A picture is made new by a byte behind its end, which no decoder reads."""
    with running() as stack, httpx.Client(timeout=60) as http:
        url = f"{stack.url('embedder-proxy')}/faces"
        number = iter(range(1_000_000))

        def post(content: bytes) -> None:
            http.post(url, content=content, headers={"Content-Type": "image/jpeg"}).raise_for_status()

        return compared(
            "cache hit at the proxy",
            "a miss: the same picture as a new file",
            20,
            lambda: post(picture),
            lambda: post(picture + str(next(number)).encode()),
            30,
        )


def _heads(pack: Pack) -> list[Head]:
    found = []
    for task in Task:
        directory = heads_directory(HEADS, task, pack.space)
        current = read_current(directory)
        assert current is not None
        found.append(load_head(directory / current.version))
    return found


def footprint() -> list[tuple[str, str]]:
    """Seconds from start to ready of the predictor, and the memory of each process at rest and after load."""
    told: list[tuple[str, str]] = []
    with running(PROXY_CACHE_TTL="0") as stack, httpx.Client(timeout=120) as http:
        rest = _memory(stack)
        shown = pictures(human())
        url = f"{stack.url('predictor')}/age-gender"

        def post(picture: bytes) -> None:
            http.post(url, content=picture, headers={"Content-Type": "image/jpeg"})

        _at_once(post, list(shown.values()) * 10)
        load = _memory(stack)
        told += [
            (f"memory of {name}, at rest / under load", f"{rest[name]} / {load[name]} MB") for name in rest
        ]
        starts = [_restart(stack) for _ in range(3)]
        told.append(("predictor from kill to ready", f"{statistics.median(starts):.1f} s (goal 3)"))
    return told


def _memory(stack: Stack) -> dict[str, int]:
    """Resident megabytes by program."""
    found = {}
    for name in ("predictor", "embedder-proxy", "embedder", "trainer", "trainer-worker-1"):
        status = Path("/proc", stack.control("pid", name).strip(), "status").read_text()
        found[name] = int(status.split("VmRSS:")[1].split()[0]) // 1024
    return found


def _restart(stack: Stack) -> float:
    stack.kill("predictor")
    started = time.monotonic()
    while True:
        try:
            if httpx.get(f"{stack.url('predictor')}/health/ready", timeout=1).is_success:
                return time.monotonic() - started
        except httpx.TransportError:
            time.sleep(0.02)


def image_sizes() -> list[tuple[str, str]]:
    """Of the images that Compose built, where an engine has them."""
    try:
        command = ["docker", "images", "--format", "{{json .}}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    images = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        (f"image {one['Repository']}", one["Size"]) for one in images if "age-gender" in one["Repository"]
    ]
