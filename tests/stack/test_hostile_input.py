"""Hostile inputs against the running system: its answers, its time and memory, and that it continues.

docs/reliability.md has one row a case.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
from agegender.spaces import Space

import tests.support.hostile_attacks as attacks
import tests.support.hostile_messages as messages
import tests.support.hostile_pictures as pictures
from tests.support.hostile_system import System, outcome
from tests.support.packs import human_pack_dir
from tests.support.serving import until
from tests.support.system import SIX_ADULTS
from tests.support.watched import WORKERS, resident, watching
from tools.stack import running_stack

_IMPORTED_MIB = 200  # of a worker that has imported what jobs need; others have a quarter of it
READ_SECONDS = 3.0  # given to a body; the default is 30


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    root = tmp_path_factory.mktemp("hostile")
    limits = {"PREDICTOR_READ_TIMEOUT": str(READ_SECONDS), "PROXY_CACHE_SECONDS": "0"}
    with running_stack(root, len(WORKERS), EMBEDDER_HUMAN_DIR=str(human_pack_dir()), **limits) as stack:
        space = Space.model_validate(httpx.get(f"{stack.url('embedder-proxy')}/info").json()["space"])
        system = System(stack, space, root / "mark")
        # What workers import when the first job waits is no growth of a case's.
        system.jobs("extract", system.folders("first", {"ages": b"file,age\nabsent.jpg,30\n"}, "labels.csv"))
        pids = [stack.pids()[worker] for worker in WORKERS]
        until(lambda: min(map(resident, pids)) > _IMPORTED_MIB, "all workers have imported", 60)
        yield system


Attack = Callable[[System], set[str]]


def image(make: Callable[[], bytes]) -> Attack:
    return lambda system: {system.image(make())}


def many(make: Callable[[], list[bytes]]) -> Attack:
    return lambda system: system.images(make())


def sample(form: str) -> bytes:
    return pictures.picture(form)


def kinds_of_pixels() -> list[bytes]:
    return [
        pictures.picture("JPEG", mode="CMYK"), pictures.picture("TIFF", mode="CMYK"),
        pictures.picture("PNG", mode="I;16"), pictures.picture("PNG", mode="P", transparency=3),
        pictures.picture("PNG", mode="LA"), pictures.picture("PNG", mode="RGBA"),
        pictures.picture("PNG", mode="1"), pictures.picture("TIFF", mode="F"),
        pictures.picture("TIFF", mode="LAB"), pictures.picture("WEBP", mode="RGBA"),
    ]  # fmt: skip


def turned(form: str) -> Attack:
    return many(lambda: pictures.flipped(sample(form), 64, seed=7))


def cut_short(form: str) -> Attack:
    return many(lambda: pictures.truncated(sample(form), 32))


def drawn_bombs(system: System) -> set[str]:
    """The annotated answer needs the pixels a second time, in the predictor."""
    bomb = pictures.flat("PNG", (7000, 7000), "RGBA")
    url = system.url("predictor", "/age-gender")
    answer = httpx.post(url, content=bomb, headers={"Accept": "image/jpeg"}, timeout=90)
    return {outcome(answer)}


def slow_heads(system: System) -> set[str]:
    address = ("127.0.0.1", system.stack.ports["predictor"])
    open_ones = [socket.create_connection(address, 20) for _ in range(200)]
    for connection in open_ones:
        connection.sendall(b"POST /age-gender HTTP/1.1\r\nX-Slow: ")
    answered = system.image(sample("PNG"))  # others are served meanwhile
    closed = {"closed" if not connection.recv(1) else "answered" for connection in open_ones}
    for connection in open_ones:
        connection.close()
    return closed | {answered}


HEAD = b"POST /age-gender HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"


def slow_body() -> Iterator[bytes]:
    yield HEAD + b"Content-Length: 1000\r\n\r\n"
    for _ in range(int(READ_SECONDS)):
        yield b"x"
        time.sleep(1)


def endless_body() -> Iterator[bytes]:
    yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"100000\r\n" + bytes(2**20) + b"\r\n"


def transport(system: System) -> set[str]:
    wrong = (
        HEAD + b"Content-Length: 999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZZZ\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        HEAD + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
    )
    return {system.raw([part]) for part in wrong}


def forms(system: System) -> set[str]:
    def part(name: str, content: bytes = b"x") -> bytes:
        return b'--b\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\n%s\r\n' % (
            name.encode(),
            content,
        )

    kind = "multipart/form-data; boundary=b"
    return {
        system.form(b"x", "multipart/form-data"),
        system.form(b"x", "multipart/form-data; boundary="),
        system.form(b"nothing of a form", kind),
        system.form(part("image")[:20], kind),
        system.form(part("picture") + b"--b--", kind),
        system.form(part("image") * 65 + b"--b--", kind),
        system.form(b"--b\r\nX: " + b"x" * 5_000_000 + b"\r\n\r\nx\r\n--b--", kind),
        system.form(b"--b\r\n" + b"X: y\r\n" * 100_000 + b"\r\nx\r\n--b--", kind),
        system.form(b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n' * 1000 + b"--b--", kind),
    }


def deep_json(system: System) -> set[str]:
    places = [("predictor", "/age-gender"), ("predictor", "/age-gender/embeddings"), ("predictor", "/")]
    places += [("embedder-proxy", "/"), ("trainer", "/experiments")]
    bodies = (messages.nested_lists(), messages.nested_objects("dataset"))
    return {system.post(*place, body, "application/json") for place in places for body in bodies}


PIXELS, UNREADABLE, DAMAGED = "too-many-pixels", "unreadable-image", "damaged-image"
ANY_PICTURE = {"200", UNREADABLE, DAMAGED, PIXELS, "empty-image"}
JSON_REFUSED = {"422 invalid-request", "400 unreadable-message", "400 bad-request", "409 space-mismatch"}


@dataclass(frozen=True)
class Case:
    """The answers allowed, each MiB by which any one service may grow, and the seconds it may take."""

    attack: Attack
    allowed: set[str]
    mib: int = 64
    seconds: float = 10


CASES = {
    "PNG of 20,000 x 20,000 pixels": Case(
        image(lambda: pictures.flat("PNG", (20_000, 20_000), "1")), {"413 too-many-pixels"}
    ),
    "headers that state up to 2^31 pixels a side": Case(
        many(lambda: [
            pictures.png_stating(2**31 - 1, 2**31 - 1), pictures.jpeg_stating(65_500, 65_500),
            pictures.webp_stating(16_000, 16_000), pictures.gif_stating(65_535, 65_535),
            pictures.bmp_stating(60_000, 60_000), pictures.tiff_stating(100_000, 100_000),
        ]),
        {PIXELS, UNREADABLE, DAMAGED},
    ),
    "49 million pixels in 100 kB: PNG": Case(
        image(lambda: pictures.flat("PNG", (7000, 7000))), {"200"}, 600, 30
    ),
    "49 million pixels with alpha: PNG": Case(
        image(lambda: pictures.flat("PNG", (7000, 7000), "RGBA")), {"200"}, 600, 30
    ),
    "49 million pixels: WebP": Case(
        image(lambda: pictures.flat("WEBP", (7000, 7000), lossless=True)), {"200"}, 1000, 30
    ),
    "49 million pixels: progressive JPEG": Case(
        image(lambda: pictures.flat("JPEG", (7000, 7000), progressive=True)), {"200"}, 600, 30
    ),
    **{
        f"49 million pixels: {form}": Case(
            image(partial(pictures.flat, form, (7000, 7000))), {"200"}, 700, 60
        )
        for form in pictures.CONTAINERS
    },
    **{
        f"{form} of other sizes than it states": Case(
            many(partial(pictures.lying_containers, form)), {PIXELS, UNREADABLE, DAMAGED}, 64, 60
        )
        for form in pictures.CONTAINERS
    },
    **{
        f"{form} of 1,000 frames": Case(image(partial(pictures.frames, form, 1000)), {"200"}, 64, 60)
        for form in pictures.CONTAINERS
    },
    "49 million pixels, annotated": Case(drawn_bombs, {"200"}, 600, 30),
    "PNG with 200 MB of compressed comments": Case(
        image(lambda: pictures.png_with_text_bomb(200)), {"415 unreadable-image"}, 160
    ),
    "JPEG of 2,000 scans": Case(
        image(lambda: pictures.jpeg_with_scans(2000, 6000)), {"415 unreadable-image"}
    ),
    **{
        f"{form} with turned bits": Case(
            turned(form), ANY_PICTURE, 300
        )
        for form in pictures.FORMATS
    },
    **{
        f"{form} cut short": Case(
            cut_short(form), ANY_PICTURE, 64
        )
        for form in pictures.FORMATS
    },
    "images that are scripts and archives as well": Case(many(pictures.polyglots), {"200"}),
    "SVG, PostScript, PDF, MVG, HEIC, PPM": Case(many(pictures.not_pictures), {UNREADABLE}),
    "EXIF and TIFF directories in loops": Case(
        many(lambda: [
            *map(pictures.jpeg_with_exif, pictures.EXIF_LOOPS.values()), *pictures.EXIF_LOOPS.values()
        ]),
        {"200", UNREADABLE},
    ),
    "CMYK, 16 bits, palette, alpha, float, Lab": Case(many(kinds_of_pixels), {"200"}),
    "1x1, 1x30,000 and 30,000x1 pixels": Case(
        many(lambda: [pictures.picture("PNG", size) for size in ((1, 1), (1, 30_000), (30_000, 1))]), {"200"}
    ),
    "200 connections that never finish a head": Case(slow_heads, {"closed", "200"}, seconds=25),
    "body of a byte a second": Case(lambda system: {system.raw(slow_body())}, {"408"}, seconds=10),
    "endless body without a length": Case(
        lambda system: {system.raw(endless_body())}, {"413", "closed"}, 160
    ),
    "wrong lengths and chunks": Case(transport, {"400", "408", "413", "closed"}, seconds=20),
    "wrong multipart": Case(
        forms, {"400 bad-multipart", "400 no-image", "413 too-many-images"}, seconds=20
    ),
    "20 MB in other systems' formats that swell, or without their boundary": Case(
        attacks.other_systems, {"400", "413", "415", "422"}, 160, 20
    ),
    "JSON 10,000 deep": Case(deep_json, JSON_REFUSED),
    "2,500 faces in one image": Case(
        attacks.crowd, {"200", "503 embedder-unavailable", "504 deadline-exceeded"}, 800, 180
    ),
    "NaN, infinities and text in embeddings": Case(
        attacks.embeddings,
        {"422 invalid-request", "422 bad-embeddings", "400 unreadable-message"},
        seconds=30
    ),
    "text where a number belongs": Case(attacks.text_for_numbers, {"422 invalid-request"}),
    f"{len(messages.CALLED)} names that run commands, pickled and jsonpickled in every way": Case(
        attacks.gadgets, {"400 unreadable-message", "409 space-mismatch"}, seconds=60
    ),
    "URLs for images, names and files": Case(
        attacks.addresses,
        {"415 unreadable-image", "422 url-not-supported", "422 bad-base64", "409 no-head", "404 not-found",
         *JSON_REFUSED},
    ),
    "labels.csv: formulas, names elsewhere, 10 MB cells, other encodings": Case(
        attacks.labels,
        {"failed bad-labels", "failed no-images", "failed no-faces",
         "no-age", "no-gender", "bad-fold", "bad-file-name", "image-missing", "link-outside"},
        64,  # jobs had 17 beyond their worker
        seconds=240,
    ),
    ".mat files that explode": Case(attacks.tables, {"failed bad-labels"}, 700, seconds=240),
    "the original's .npy files with gadgets, or that explode": Case(
        attacks.original_files, {"failed bad-original"}, 64, seconds=240
    ),
    ".npz files that explode": Case(attacks.extracted_sets, {"409 bad-dataset"}),
    "heads whose safetensors or head.json lie": Case(
        attacks.heads, {"refused", "true one served"}, seconds=60
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hostile_input_is_answered_in_bounds_and_the_system_continues(system: System, name: str) -> None:
    case = CASES[name]
    with watching(system.stack) as watched:
        started = time.monotonic()
        answered = case.attack(system)
        seconds = time.monotonic() - started
    if (record := os.environ.get("HOSTILE_RECORD")) is not None:
        with Path(record).open("a") as file:
            file.write(json.dumps([name, sorted(answered), round(seconds, 2), watched.growth]) + "\n")
    assert answered and answered <= case.allowed
    assert not watched.restarted
    assert max(watched.growth.values()) <= case.mib, watched.growth
    assert seconds <= case.seconds
    assert not system.mark.exists()
    assert system.image(SIX_ADULTS.read_bytes()) == "200"
