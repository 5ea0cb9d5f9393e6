"""Folders with images and tables of labels."""

import csv
from pathlib import Path

from PIL import Image


def images(folder: Path, *files: str) -> Path:
    """Write small images; returns the folder."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / file)
    return folder


def table(folder: Path, content: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    """Write a table; returns the folder."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content, encoding=encoding, newline="")
    return folder


def written(folder: Path) -> list[dict[str, str]]:
    """Return the rows of labels.csv."""
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
