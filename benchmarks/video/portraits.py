"""Labelled photographs of faces: persons of the made videos, and faces that heads are trained on.

A data folder has `utkface` and `all-age-faces`, each with images and `labels.csv` (file, age, gender). Three
splits by the SHA-256 of the file name share no image: 0 to 3 train heads, 4 to 7 are for development, 8 to f
for confirmation.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from agegender.images import ImageLimits, decode
from agegender.labels import MAX_AGE
from embedder.packs.pack import Pack

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Split = Literal["training", "development", "confirmation"]

SETS: Final = ("utkface", "all-age-faces")
_DIGITS: Final[dict[Split, str]] = {
    "training": "0123",
    "development": "4567",
    "confirmation": "89abcdef",
}


@dataclass(frozen=True)
class Label:
    """A row of labels.csv. path : of the image."""

    path: Path
    age: float
    female: bool


@dataclass(frozen=True)
class Portrait:
    """A photograph of one face.

    pixels : RGB [height, width, 3]. box : of the face, x1, y1, x2, y2 in its pixels.
    """

    name: str
    pixels: Pixels = field(repr=False)
    box: Box
    age: float
    female: bool


def labels(data: Path, dataset: str, split: Split) -> list[Label]:
    """Return the labelled files of a split, in the order of their hashes.

    Raises SystemExit if the folder has no labels.csv.
    """
    table = data / dataset / "labels.csv"
    if not table.is_file():
        raise SystemExit(f"{table} is missing. Give the folder that has {' and '.join(SETS)}.")
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if _is_labelled(row)]
    hashed = sorted((hashlib.sha256(row["file"].encode()).hexdigest(), row["file"], row) for row in rows)
    return [
        Label(table.parent / name, float(row["age"]), row["gender"] == "f")
        for digest, name, row in hashed
        if digest[0] in _DIGITS[split]
    ]


def _is_labelled(row: dict[str, str]) -> bool:
    return row["gender"] in ("f", "m") and row["age"] != "" and 0 <= float(row["age"]) <= MAX_AGE


def alternating(data: Path, split: Split) -> list[Label]:
    """Return the labelled files of a split, one of each set by turns, as many of each."""
    pairs = zip(*(labels(data, name, split) for name in SETS), strict=False)
    return [label for pair in pairs for label in pair]


def portraits(pack: Pack, found: Sequence[Label]) -> Iterator[Portrait]:
    """Yield a portrait of each file in which exactly one face is detected, upright."""
    for label in found:
        pixels = decode(label.path.read_bytes(), ImageLimits())
        detected = pack.detect([pixels])[0]
        if len(detected.score) != 1 or detected.rotation:
            continue
        x1, y1, x2, y2 = (float(value) for value in detected.bbox[0])
        yield Portrait(label.path.name, pixels, (x1, y1, x2, y2), label.age, label.female)
