"""Compare the system over HTTP with the same work in one process."""

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
from agegender.heads.head import Head, Task, heads_directory, load_head, read_current
from agegender.images import ImageLimits, decode
from embedder.packs.pack import Pack

from benchmarks.packs import human
from benchmarks.photographs import many_faces, photographs_by_faces
from benchmarks.table import Goal, Row, compared, seconds_of
from tools.stack import ROOT, Stack, running_stack

CLIENTS, REQUESTS = 16, 96
# A busy machine slows the measurement but must not abort it.
PATIENT = {
    "PROXY_ATTEMPT_TIMEOUT_SECONDS": "120",
    "PROXY_TIMEOUT_SECONDS": "120",
    "PREDICTOR_TIMEOUT_SECONDS": "120",
}
UNCACHED = {**PATIENT, "PROXY_CACHE_SECONDS": "0"}
HEADS = ROOT / "services" / "predictor" / "heads"


@contextmanager
def running(workers: int = 1, /, **environment: str) -> Iterator[Stack]:
    """Run the system on free ports in a temporary folder."""
    with TemporaryDirectory() as folder, running_stack(Path(folder), workers, **environment) as stack:
        yield stack


def rows() -> list[Row]:
    pack = human()
    shown = photographs_by_faces(pack)
    heads = local_heads(pack)

    def in_process(image: bytes) -> None:
        """Detect, align, embed and predict with intervals in this process."""
        faces = pack.faces([decode(image, ImageLimits())])[0]
        embeddings = np.array([face.embedding for face in faces], np.float32)
        for head in heads:
            probabilities = head.probabilities(embeddings)
            if head.manifest.conformal is not None:
                head.manifest.conformal.intervals(probabilities, 0.9)

    with running(**UNCACHED) as stack, httpx.Client(timeout=120, trust_env=False) as http:
        url = f"{stack.url('predictor')}/age-gender"

        def over_http(image: bytes) -> None:
            _post(http, url, image)

        idle = compared(
            "POST /age-gender, one face, idle",
            "detect, align, embed and heads called in one process",
            1 / 1.15,
            lambda: over_http(shown[1]),
            lambda: in_process(shown[1]),
            20,
            "goal: at most 1.15 times as long",
            "the difference is two HTTP requests, mostly httpx's client, and JSON of the embeddings",
        )
        mixed = [shown[1 + number % len(shown)] for number in range(REQUESTS)]
        busy = compared(
            f"throughput, {CLIENTS} clients, one to six faces",
            "the same images one by one in one process on both cores",
            0.9,
            lambda: at_once(over_http, mixed),
            lambda: _in_turn(in_process, mixed),
            2,
            if_missed="the clients and three services use the same cores as the models",
        )
    return [idle, busy, *_cache(shown[1], {6: shown[6], 20: many_faces(5, 4)})]


def at_once(post: Callable[[bytes], None], images: list[bytes], clients: int = CLIENTS) -> None:
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(post, images))


def _in_turn(work: Callable[[bytes], None], images: list[bytes]) -> None:
    for image in images:
        work(image)


def _cache(image: bytes, crowds: dict[int, bytes]) -> list[Row]:
    """Measure cache hits. A byte appended to a file makes a new image, which decoders ignore.

    crowds : further images by their number of faces.
    """
    with running(**PATIENT) as stack, httpx.Client(timeout=60, trust_env=False) as http:
        proxy = stack.url("embedder-proxy")
        number = iter(range(1_000_000))

        def hit() -> None:
            _post(http, f"{proxy}/faces", image)

        def miss() -> None:
            _post(http, f"{proxy}/faces", image + str(next(number)).encode())

        ratio = compared(
            "cache hit at the proxy",
            "a miss: the same image as a new file",
            20,
            hit,
            miss,
            10,
            "alternating runs of hits and of misses, a quarter of a second each",
        )
        in_the_proxy = _mean_milliseconds(http, proxy, hit, 50)
        after_a_miss = []
        for _ in range(20):
            miss()
            after_a_miss.append(seconds_of(hit) * 1000)
        larger = [_hit_of_many(http, proxy, *crowd) for crowd in crowds.items()]
    seen = Row(
        "cache hit, seen by the client",
        "one face; HTTP, hash of the file, Redis, JSON",
        ratio.seconds["ours"] * 1000,
        Goal(2, at_most=True),
        " ms",
        note="includes the client, httpx; directly after a miss, when the networks have replaced the "
        f"processor's caches, {statistics.median(after_a_miss):.1f} ms",
    )
    inside = Row(
        "cache hit, in the proxy",
        "by its own metric, from the request's header to the last byte of the response",
        in_the_proxy,
        unit=" ms",
    )
    return [ratio, seen, inside, *larger]


def _hit_of_many(http: httpx.Client, proxy: str, faces: int, image: bytes) -> Row:
    found = _post(http, f"{proxy}/faces", image).json()["images"][0]["faces"]
    assert len(found) == faces, f"{len(found)} faces were found of {faces}"
    milliseconds = _mean_milliseconds(http, proxy, lambda: _post(http, f"{proxy}/faces", image), 50)
    what = f"cache hit, in the proxy, {faces} faces"
    return Row(what, "by its own metric; answered as JSON", milliseconds, unit=" ms")


def _post(http: httpx.Client, url: str, image: bytes) -> httpx.Response:
    return http.post(url, content=image, headers={"Content-Type": "image/jpeg"}).raise_for_status()


def _mean_milliseconds(http: httpx.Client, proxy: str, work: Callable[[], object], times: int) -> float:
    """Return the mean duration of `times` requests to `/faces` in the proxy's own metrics."""
    before = _seconds_counted(http, proxy)
    for _ in range(times):
        work()
    return (_seconds_counted(http, proxy) - before) / times * 1000


def _seconds_counted(http: httpx.Client, service: str) -> float:
    counted = 'http_request_seconds_sum{method="POST",route="/faces"} '
    lines = http.get(f"{service}/metrics").raise_for_status().text.splitlines()
    return next(float(line.removeprefix(counted)) for line in lines if line.startswith(counted))


def local_heads(pack: Pack) -> list[Head]:
    """Return the shipped heads for the pack's space, age first."""
    found = []
    for task in Task:
        directory = heads_directory(HEADS, task, pack.space)
        current = read_current(directory)
        assert current is not None
        found.append(load_head(directory / current.version))
    return found
