"""How cost grows, a curve each: faces per image, image size, clients, data set size, workers, seeds."""

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
from benchmarks.photographs import pictures
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
    """Up to 24 faces: the six of the photograph, copied beside and below themselves."""
    pack = human()
    shown = pictures(pack)
    with Image.open(PHOTOGRAPH) as file:
        photograph = file.convert("RGB")
    points = []
    for picture in (_opened(shown[1]), _opened(shown[3]), photograph, *_tiled(photograph)):
        image = np.asarray(_on_canvas(picture))
        faces = len(pack.faces([image])[0])
        points.append((float(faces), _median_ms(lambda image=image: pack.faces([image]))))  # type: ignore[misc]
    return Curve(
        "faces-per-image",
        "Faces in a picture of 1280 × 886",
        "faces",
        "ms a picture",
        tuple(sorted(points)),
        "A line: searching the picture costs the same for any number of faces, each face its crops and "
        "networks.",
    )


def image_size() -> Curve:
    """The photograph, shrunk and enlarged, with decoding."""
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
        "Megapixels of one picture of six faces",
        "megapixels",
        "ms a picture",
        tuple(points),
        "Steps at 400 and 1600 pixels of width, where the detector begins to search parts of the picture, "
        "and smaller parts; beyond them decoding and shrinking grow with the pixels.",
    )


def concurrent_clients() -> Curve:
    points = []
    picture = pictures(human())[1]
    with running(**UNCACHED) as stack, httpx.Client(timeout=120, trust_env=False) as http:
        url = f"{stack.url('predictor')}/age-gender"

        def post(content: bytes) -> None:
            http.post(url, content=content).raise_for_status()

        post(picture)
        for clients in (1, 2, 4, 8, 16, 32):
            requests = max(16, 2 * clients)
            work = [picture] * requests
            seconds = seconds_of(lambda work=work, clients=clients: at_once(post, work, clients))  # type: ignore[misc]
            points.append((float(clients), requests / seconds))
    return Curve(
        "clients",
        "Clients at once, one face each",
        "clients",
        "answers a second",
        tuple(points),
        "The second client fills the gaps in which the first one's answer is written; then the cores are "
        "full, and more clients wait longer for the same throughput.",
    )


def data_set_size() -> Curve:
    points = []
    for faces in (1_000, 3_000, 10_000, 30_000):
        made_up(faces)  # its own cost is not the training's
        points.append((float(faces), seconds_of(lambda faces=faces: train(faces, 5))))  # type: ignore[misc]
    return Curve(
        "data-set-size",
        "Faces trained on: an epoch of five of the original's ResMLP",
        "faces",
        "seconds",
        tuple(points),
        "A line: the data lie in memory, and an epoch is faces / batch size steps of equal cost.",
    )


def seeds_per_bank() -> Curve:
    points = [
        (float(seeds), seconds_of(lambda seeds=seeds: train(4_000, seeds)) / seeds)  # type: ignore[misc]
        for seeds in (1, 2, 5, 10, 20)
    ]
    return Curve(
        "seeds",
        "Seeds in a bank: an epoch of 4,000 faces",
        "seeds",
        "seconds a seed",
        tuple(points),
        "The cost of a seed falls as all share the fixed cost of a step, until arithmetic alone is left and "
        "the weights of all members no longer fit the processor's cache.",
    )


def workers() -> Curve:
    return Curve(
        "workers",
        "Workers: five folds of five seeds, 6,000 faces",
        "workers",
        "seconds from request to report",
        tuple((float(count), _experiment(count)) for count in (1, 2, 4)),
        "A job has one thread by default, so a second worker uses the second core; more than two share both.",
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
        write_embedding_set(stack.data_dir, "made", "images", faces, {"kind": "made up"})
        started = time.monotonic()
        identifier = http.post("/experiments", json=_EXPERIMENT).raise_for_status().json()["id"]
        while (state := http.get(f"/experiments/{identifier}").json()["state"]) in ("queued", "running"):
            time.sleep(0.2)
        if state != "finished":
            raise RuntimeError(f"the experiment {state}")
        return time.monotonic() - started


def _tiled(photograph: Image.Image) -> list[Image.Image]:
    """Two, and four, copies of the photograph in one."""
    width, height = photograph.size
    tiled = []
    for columns, lines in ((2, 1), (2, 2)):
        picture = Image.new("RGB", (width * columns, height * lines))
        for column in range(columns):
            for row in range(lines):
                picture.paste(photograph, (column * width, row * height))
        tiled.append(picture)
    return tiled


def _on_canvas(picture: Image.Image) -> Image.Image:
    """The picture in a black one of the photograph's size, shrunk where it is larger."""
    canvas = Image.new("RGB", CANVAS)
    shown = picture.copy()
    shown.thumbnail(CANVAS)
    canvas.paste(shown)
    return canvas


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def _median_ms(work: Callable[[], object]) -> float:
    work()
    return statistics.median(seconds_of(work) for _ in range(REPEATS)) * 1000
