"""`python -m benchmarks.accuracy.framing CROPS --pack human`: tables of turned, tight and cut images.

CROPS has the folders `utkface` and `all-age-faces`, each with images and `labels.csv` (file, age, gender).
Thresholds may only be fitted on development crops, whose file name has a SHA-256 that starts with 0 to 7. By
default the others are used, in the order of that hash. The shipped heads were trained on these faces, so the
absolute metrics are optimistic; compare the rows with each other. `--first-search` makes only the first
search of each image, and so shows what those with a border and in other turns contribute.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
from agegender.heads.head import Head, Task, heads_directory, load_head, read_current
from agegender.images import ImageLimits, decode
from agegender.spaces import Space
from embedder.packs.pack import Image, Pack
from embedder.packs.store import load_pack

from benchmarks.accuracy.tables import Table
from tools.stack import RESEARCH_DATA, ROOT

SETS = ("utkface", "all-age-faces")
COLUMNS = ["crops", "framing", "found", "turn right", "gender accuracy", "age MAE, years", "border"]
_TOGETHER = 16


@dataclass(frozen=True)
class Crop:
    path: Path
    age: float
    female: bool


def turned(degrees: int) -> Callable[[Image], Image]:
    """Return a function that turns an image clockwise."""
    return lambda image: np.ascontiguousarray(np.rot90(image, -(degrees // 90)))


def middle(share: float) -> Callable[[Image], Image]:
    """Return a function that cuts an image to its middle: a share of its width and of its height."""

    def cut(image: Image) -> Image:
        height, width = image.shape[:2]
        y, x = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
        return np.ascontiguousarray(image[y : height - y, x : width - x])

    return cut


def rows_between(start: float, stop: float) -> Callable[[Image], Image]:
    """Return a function that keeps the rows between two shares of the height."""
    return lambda image: np.ascontiguousarray(
        image[round(image.shape[0] * start) : round(image.shape[0] * stop)]
    )


def bordered(share: float) -> Callable[[Image], Image]:
    """Return a function that adds a black border: a share of the longer side, on each side."""

    def add(image: Image) -> Image:
        margin = round(max(image.shape[:2]) * share)
        return np.asarray(
            cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_CONSTANT), np.uint8
        )

    return add


# Framing, and the clockwise turn that makes the image upright again.
FRAMINGS: dict[str, tuple[Callable[[Image], Image], int]] = {
    "as it is": (turned(0), 0),
    "turned by 90°": (turned(90), 270),
    "turned by 180°": (turned(180), 180),
    "turned by 270°": (turned(270), 90),
    "middle 80 %": (middle(0.8), 0),
    "middle 70 %": (middle(0.7), 0),
    "middle 60 %": (middle(0.6), 0),
    "border of 30 %": (bordered(0.3), 0),
    "upper 62 %": (rows_between(0, 0.62), 0),
    "upper 62 %, turned by 180°": (lambda image: turned(180)(rows_between(0, 0.62)(image)), 180),
    "lower 70 %": (rows_between(0.3, 1), 0),
}


def crops(folder: Path, *, development: bool, count: int) -> list[Crop]:
    """Return the first crops of a half of a folder, in the order of their names' hashes."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = [(sha256(row["file"].encode()).hexdigest(), row) for row in csv.DictReader(file)]
    half = sorted((hash_, row["file"], row) for hash_, row in rows if (hash_[0] in "01234567") is development)
    return [Crop(folder / name, float(row["age"]), row["gender"] == "f") for _, name, row in half[:count]]


def shipped_heads(space: Space) -> dict[Task, Head]:
    heads = {}
    for task in Task:
        directory = heads_directory(ROOT / "services" / "predictor" / "heads", task, space)
        current = read_current(directory)
        if current is None:
            raise SystemExit(f"No head is shipped for {task} in the space {space}.")
        heads[task] = load_head(directory / current.version)
    return heads


def measure(
    pack: Pack, heads: dict[Task, Head], selected: list[Crop], framings: list[str], *, first_search: bool
) -> Iterator[list[str]]:
    """Yield one row of the table per framing."""
    for framing in framings:
        frame, upright = FRAMINGS[framing]
        embeddings, found, right, border = [], [], 0, 0
        for start in range(0, len(selected), _TOGETHER):
            batch = selected[start : start + _TOGETHER]
            images = [frame(decode(crop.path.read_bytes(), ImageLimits())) for crop in batch]
            detected = pack.detect(images, awaited=lambda: not first_search)
            largest = [detections.rows(slice(0, 1)) for detections in detected]
            for crop, detections, faces in zip(batch, largest, pack.embed(images, largest), strict=True):
                if faces:
                    found.append(crop)
                    embeddings.append(faces[0].embedding)
                    border += faces[0].border
                    right += detections.rotation == upright
        yield [
            framing,
            *_metrics(heads, np.array(embeddings, np.float32), found, len(selected), right, border),
        ]


def _metrics(
    heads: dict[Task, Head], embeddings: np.ndarray, found: list[Crop], all_: int, right: int, border: int
) -> list[str]:
    if not found:
        return ["0.000", "–", "–", "–", "–"]
    years = heads[Task.AGE].probabilities(embeddings) @ np.arange(101)
    female = heads[Task.GENDER].probabilities(embeddings)[:, 0] > 0.5
    return [
        f"{len(found) / all_:.3f}",
        f"{right / len(found):.3f}",
        f"{np.mean(female == np.array([crop.female for crop in found])):.3f}",
        f"{np.mean(np.abs(years - np.array([crop.age for crop in found]))):.2f}",
        f"{border / len(found):.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy.framing", description=__doc__)
    parser.add_argument("crops", type=Path)
    parser.add_argument("--pack", default="human")
    parser.add_argument("--faces", type=int, default=500, help="number per folder")
    parser.add_argument("--development", action="store_true", help="use the half for fitting thresholds")
    parser.add_argument("--first-search", action="store_true", help="search each image once, as it is")
    parser.add_argument("--framings", nargs="+", choices=list(FRAMINGS), default=list(FRAMINGS))
    arguments = parser.parse_args()
    human = ROOT / "data" / "packs" / "human"
    pack_dir = human if arguments.pack == "human" else RESEARCH_DATA / "packs" / arguments.pack
    pack = load_pack(arguments.pack, pack_dir.parent, pack_dir, human, 1)
    half = "development" if arguments.development else "confirmation"
    searches = ", first search only" if arguments.first_search else ""
    title = f"Framing: {arguments.pack}, {arguments.faces} {half} crops of each set{searches}"
    print(Table(title, COLUMNS, []).markdown(), end="", flush=True)
    heads = shipped_heads(pack.space)
    for name in SETS:
        selected = crops(arguments.crops / name, development=arguments.development, count=arguments.faces)
        for row in measure(pack, heads, selected, arguments.framings, first_search=arguments.first_search):
            # Print row by row, because the last ones take minutes.
            print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
