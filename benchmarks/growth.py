"""Curves of the cost against faces per image, image size, clients, data set size, workers and seeds."""

import io
import statistics
import time
from collections.abc import Callable

import httpx
import numpy as np
from agegender.images import ImageLimits, decode
from PIL import Image
from trainer.datasets.embedding_set import write_embedding_set

from benchmarks.curves import Curve
from benchmarks.packs import human
from benchmarks.photographs import photographs_by_faces
from benchmarks.serving import PATIENT, UNCACHED, at_once, running
from benchmarks.table import seconds_of
from benchmarks.training import made_up, train
from tools.stack import PHOTOGRAPH

REPEATS = 5
CANVAS = (1280, 886)  # pixels; the photograph's
_EXPERIMENT = {
    "task": "age",
    "dataset": "made",
    "seeds": 5,
    "optimizer": {"epochs": 10, "patience": 10},
}


def faces_per_image() -> Curve:
    """Measure up to 24 faces: copies of the photograph, which has six."""
    pack = human()
    shown = photographs_by_faces(pack)
    with Image.open(PHOTOGRAPH) as file:
        photograph = file.convert("RGB")
    points = []
    for photo in (_opened(shown[1]), _opened(shown[3]), photograph, *_tiled(photograph)):
        image = np.asarray(_on_canvas(photo))
        faces = len(pack.faces([image])[0])
        points.append((float(faces), _median_ms(lambda image=image: pack.faces([image]))))  # type: ignore[misc]
    return Curve(
        "faces-per-image",
        "Faces in an image of 1280 × 886",
        "faces",
        "ms per image",
        tuple(sorted(points)),
        "Linear: the search costs the same for any number of faces, and each face adds crops and networks.",
    )


def image_size() -> Curve:
    """Measure the photograph in several sizes, including decoding."""
    pack = human()
    points = []
    for width in (320, 640, 1280, 2560, 5120):
        content = _jpeg(_opened(PHOTOGRAPH.read_bytes()).resize((width, width * 886 // 1280)))
        pixels = width * (width * 886 // 1280) / 1e6
        points.append(
            (pixels, _median_ms(lambda content=content: pack.faces([decode(content, ImageLimits())])))  # type: ignore[misc]
        )
    return Curve(
        "image-size",
        "Megapixels of one image of six faces",
        "megapixels",
        "ms per image",
        tuple(points),
        "Steps at long sides of 960 and 1600 pixels, above which the image is also searched at a larger "
        "size; otherwise decoding and resizing grow with the pixels.",
    )


def concurrent_clients() -> Curve:
    points = []
    photo = photographs_by_faces(human())[1]
    with running(**UNCACHED) as stack, httpx.Client(timeout=120, trust_env=False) as http:
        url = f"{stack.url('predictor')}/age-gender"

        def post(content: bytes) -> None:
            http.post(url, content=content).raise_for_status()

        post(photo)
        for clients in (1, 2, 4, 8, 16, 32):
            requests = max(16, 2 * clients)
            work = [photo] * requests
            seconds = seconds_of(lambda work=work, clients=clients: at_once(post, work, clients))  # type: ignore[misc]
            points.append((float(clients), requests / seconds))
    return Curve(
        "clients",
        "Concurrent clients, one face each",
        "clients",
        "answers per second",
        tuple(points),
        "The second client uses the time in which the first one's answer is written. Then the cores are "
        "busy, and more clients only wait longer.",
    )


def data_set_size() -> Curve:
    points = []
    for faces in (1_000, 3_000, 10_000, 30_000):
        made_up(faces)  # its cost is not part of the measurement
        points.append((float(faces), seconds_of(lambda faces=faces: train(faces, 5))))  # type: ignore[misc]
    return Curve(
        "data-set-size",
        "Training faces: one epoch of five of the original's ResMLP",
        "faces",
        "seconds",
        tuple(points),
        "Linear: the data are in memory, and an epoch has faces / batch size steps of equal cost.",
    )


def seeds_per_bank() -> Curve:
    points = [
        (float(seeds), seconds_of(lambda seeds=seeds: train(4_000, seeds)) / seeds)  # type: ignore[misc]
        for seeds in (1, 2, 5, 10, 20)
    ]
    return Curve(
        "seeds",
        "Seeds in a bank: one epoch of 4,000 faces",
        "seeds",
        "seconds per seed",
        tuple(points),
        "The cost per seed falls, because all share the fixed cost of a step, until arithmetic dominates and "
        "the weights of all members exceed the processor's cache.",
    )


def workers() -> Curve:
    return Curve(
        "workers",
        "Workers: five folds of five seeds, 6,000 faces",
        "workers",
        "seconds from request to report",
        tuple((float(count), _experiment(count)) for count in (1, 2, 4)),
        "A job has one thread by default, so a second worker uses the second core; further ones share both.",
    )


CURVES: dict[str, Callable[[], Curve]] = {
    "faces-per-image": faces_per_image,
    "image-size": image_size,
    "clients": concurrent_clients,
    "data-set-size": data_set_size,
    "workers": workers,
    "seeds": seeds_per_bank,
}


def _experiment(workers: int) -> float:
    with (
        running(workers, **PATIENT) as stack,
        httpx.Client(base_url=stack.url("trainer"), timeout=60, trust_env=False) as http,
    ):
        faces = made_up(6_000, folds=5)
        write_embedding_set(stack.data_dir, "made", "images", faces, {"format": "made up"})
        started = time.monotonic()
        identifier = http.post("/experiments", json=_EXPERIMENT).raise_for_status().json()["id"]
        while (state := http.get(f"/experiments/{identifier}").json()["state"]) in ("queued", "running"):
            time.sleep(0.2)
        if state != "finished":
            raise RuntimeError(f"the experiment {state}")
        return time.monotonic() - started


def _tiled(photograph: Image.Image) -> list[Image.Image]:
    """Return images of two and of four copies of the photograph."""
    width, height = photograph.size
    tiled = []
    for columns, lines in ((2, 1), (2, 2)):
        photo = Image.new("RGB", (width * columns, height * lines))
        for column in range(columns):
            for row in range(lines):
                photo.paste(photograph, (column * width, row * height))
        tiled.append(photo)
    return tiled


def _on_canvas(photo: Image.Image) -> Image.Image:
    """Place an image on a black one of the photograph's size, and shrink it if it is larger."""
    canvas = Image.new("RGB", CANVAS)
    shown = photo.copy()
    shown.thumbnail(CANVAS)
    canvas.paste(shown)
    return canvas


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def _jpeg(photo: Image.Image) -> bytes:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=90)
    return file.getvalue()


def _median_ms(work: Callable[[], object]) -> float:
    work()
    return statistics.median(seconds_of(work) for _ in range(REPEATS)) * 1000
