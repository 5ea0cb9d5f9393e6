"""MATLAB level 5 files: IMDB-WIKI's tables, and element by element, to state what is not there."""

import struct
import zlib
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def matrix(array_class: int, dimensions: tuple[int, ...], content: bytes = b"") -> bytes:
    return element(
        14,
        element(6, struct.pack("<II", array_class, 0))
        + element(5, struct.pack(f"<{len(dimensions)}i", *dimensions))
        + element(1, b"wiki")
        + content,
    )


def mat_file(*elements: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124, b" ") + b"\0\1IM" + b"".join(elements)


def nested_cells(depth: int) -> bytes:
    inner = matrix(1, (1, 1))
    for _ in range(depth):
        inner = matrix(1, (1, 1), inner)
    return inner


def compressed(content: bytes) -> bytes:
    packed = zlib.compress(content, 9)
    return struct.pack("<II", 15, len(packed)) + packed


def matlab_day(year: int, month: int, day: int) -> int:
    return date(year, month, day).toordinal() + 366


def write_wiki(folder: Path, rows: list[tuple[str, float, float, float, str]], compress: bool = True) -> Path:
    def cells(values: list[str]) -> Any:
        column = np.empty((1, len(values)), dtype=object)
        column[0, :] = values
        return column

    files, births, genders, taken, names = zip(*rows, strict=True)
    table = {
        "dob": np.array([births]),
        "photo_taken": np.array([taken]),
        "full_path": cells(list(files)),
        "gender": np.array([genders]),
        "name": cells(list(names)),
        "face_score": np.full((1, len(rows)), -np.inf),
    }
    savemat(folder / "wiki.mat", {"wiki": table}, do_compression=compress)
    return folder / "wiki.mat"
