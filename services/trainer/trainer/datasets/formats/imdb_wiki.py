"""IMDB-WIKI (Rothe, Timofte and Van Gool 2018, doi:10.1007/s11263-016-0940-3): `imdb.mat` or `wiki.mat`.

The filters are those of the original project: age from 0 to 100 years, known gender, exactly one detected
face, and a minimum detection score.

SciPy trusts the dimensions and sizes that a MATLAB file states, so one byte may become an array of a hundred.
The file is therefore checked first, following the MathWorks' "MAT-File Format" (R2024a, chapter 1): each
stated size against the bytes present, and the memory of all arrays against a bound.
"""

import struct
import zlib
from collections.abc import Iterator
from datetime import date
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.labels import MAX_AGE, Gender

from trainer.datasets.labels import (
    DETECTED,
    DatasetFormat,
    LabelledImage,
    LabelRow,
    Reason,
    Removed,
    bad_labels,
)

IMAGE_SET = "images"
_SOURCES = ("imdb", "wiki")
_GENDERS = {0.0: Gender.FEMALE, 1.0: Gender.MALE}
_COLUMNS = {"full_path": "O", "dob": "iuf", "gender": "iuf", "photo_taken": "iuf", "name": "O"}
_MATLAB_DAYS = 366  # MATLAB counts days from year 0, Python from year 1

_MAX_BYTES = 256 * 1024**2
MAX_UNPACKED = 512 * 1024**2
_MAX_MEMORY = 2 * 1024**3
_STRIDE = 1024 * 1024
_MAX_DEPTH, _MAX_DIMENSIONS = 6, 32
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15  # data types
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)  # array classes
# Bytes of memory per element at most: an array object, a character, a complex number.
_ELEMENT_BYTES = {_CELL: 208, _STRUCT: 208, _CHAR: 4, **dict.fromkeys(_NUMERIC, 16)}


def label_files(folder: Path) -> list[Path]:
    return [path for source in _SOURCES if (path := folder / f"{source}.mat").is_file()]


def age_when_taken(birth: float, year: float) -> int:
    """Return the age in the middle of the year in which a photograph was taken.

    birth : MATLAB serial day; days before year 1 count as 1 January of year 1. year : year of the photograph.
    """
    born = date.fromordinal(min(max(int(birth) - _MATLAB_DAYS, 1), date.max.toordinal()))
    return int(year) - born.year - (born.month >= 7)


def read(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the rows of imdb.mat, then those of wiki.mat. The subject is the person's name."""
    for path in label_files(folder):
        yield from _rows(path)


def _rows(path: Path) -> Iterator[LabelRow]:
    try:
        table = read_mat(path, path.stem)[0, 0]
        columns = {name: _column(table, name, dtypes) for name, dtypes in _COLUMNS.items()}
    except (OSError, BadMatFile, ValueError, IndexError, KeyError, TypeError) as error:
        raise bad_labels(path, str(error)) from error
    if len({len(column) for column in columns.values()}) != 1:
        raise bad_labels(path, "expected columns of equal length")
    for file, birth, gender, taken, name in zip(*columns.values(), strict=True):
        yield _labelled(_text(file), birth, gender, taken, _text(name))


def _column(table: Any, name: str, dtypes: str) -> npt.NDArray[Any]:
    column = np.asarray(table[name])
    if column.ndim != 2 or len(column) != 1 or column.dtype.kind not in dtypes:
        raise ValueError(
            f"expected the column {name} to be one row of {'cells' if dtypes == 'O' else 'numbers'}"
        )
    return np.asarray(column[0])


def _text(cell: Any) -> str:
    values = np.asarray(cell).ravel()
    return str(values[0]) if values.size else ""


def _labelled(file: str, birth: float, gender: float, taken: float, name: str) -> LabelRow:
    if not (np.isfinite(birth) and np.isfinite(taken)):
        return Removed(file, Reason.NO_AGE)
    if not 0 <= (years := age_when_taken(birth, taken)) <= MAX_AGE:
        return Removed(file, Reason.AGE_OUT_OF_RANGE)
    if (known := _GENDERS.get(float(gender))) is None:
        return Removed(file, Reason.NO_GENDER)
    return LabelledImage(file, float(years), float(years), known, subject=name)


def image_sets(folder: Path) -> list[str]:
    return [IMAGE_SET] if label_files(folder) else []


class BadMatFile(ValueError):
    """Not a level 5 MATLAB file, or one with inconsistent sizes."""


def read_mat(path: Path, variable: str) -> Any:
    """Return one variable of a level 5 file as SciPy reads it. Raises `BadMatFile`, `OSError`."""
    from scipy.io import loadmat  # takes a third of a second, and only one format needs it

    if path.stat().st_size > _MAX_BYTES:
        raise BadMatFile(f"the file is larger than {_MAX_BYTES} bytes")
    check_mat(path.read_bytes())
    try:
        return loadmat(str(path), variable_names=[variable])[variable]
    except KeyError as error:
        raise BadMatFile(f"there is no variable {variable!r}") from error
    except (ValueError, TypeError, NotImplementedError, EOFError, zlib.error, MemoryError) as error:
        raise BadMatFile(str(error)) from error


def check_mat(content: bytes) -> None:
    """Raise `BadMatFile` unless every array of a level 5 file is consistent with its bytes."""
    if len(content) < _HEADER or content[126:128] != b"IM" or content[125] != 1:
        raise BadMatFile("not a little-endian MATLAB level 5 file (save with -v7, not -v7.3)")
    memory = _Memory()
    position, unpacked = _HEADER, 0
    while position < len(content):
        kind, start, end, position = _element(content, position, len(content), aligned=False)
        if kind == _COMPRESSED:
            inner = _inflated(content[start:end], MAX_UNPACKED - unpacked)
            unpacked += len(inner)
            _check_elements(inner, 0, len(inner), 0, memory)
        elif kind == _MATRIX:
            _check_matrix(content, start, end, 0, memory)
        else:
            raise BadMatFile(f"found an element of type {kind}, expected an array")


class _Memory:
    """Memory budget of all arrays together."""

    def __init__(self) -> None:
        self._left = _MAX_MEMORY

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise BadMatFile(f"its arrays need more than {_MAX_MEMORY} bytes of memory")


def _inflated(packed: bytes, limit: int) -> bytes:
    """Decompress, after measuring the size in a first pass so that a decompression bomb takes no memory."""
    try:
        stream, size, rest = zlib.decompressobj(), 0, packed
        while rest and not stream.eof:
            size += len(stream.decompress(rest, _STRIDE))
            rest = stream.unconsumed_tail
            if size > limit:
                raise BadMatFile(f"it unpacks to more than {MAX_UNPACKED} bytes")
        return zlib.decompressobj().decompress(packed)
    except zlib.error as error:
        raise BadMatFile(str(error)) from error


def _element(content: bytes, position: int, end: int, *, aligned: bool = True) -> tuple[int, int, int, int]:
    """Return type, start and end of the element at a position, and the position of the next one."""
    if position + 8 > end:
        raise BadMatFile("the file is truncated")
    kind, size = struct.unpack_from("<II", content, position)
    if kind >> 16:  # the small format: size, type and up to four bytes of data in eight
        start, size, kind, following = position + 4, kind >> 16, kind & 0xFFFF, position + 8
        if size > 4:
            raise BadMatFile("a small element states a size of more than four bytes")
    else:
        start = position + 8
        following = start + (size + 7) // 8 * 8 if aligned else start + size
    if start + size > end:
        raise BadMatFile("an element states more bytes than the file has")
    return kind, start, start + size, min(following, end)


def _check_elements(content: bytes, position: int, end: int, depth: int, memory: _Memory) -> None:
    """Check consecutive elements."""
    while position < end:
        kind, start, stop, position = _element(content, position, end)
        if kind == _MATRIX:
            _check_matrix(content, start, stop, depth, memory)


def _check_matrix(content: bytes, start: int, end: int, depth: int, memory: _Memory) -> None:
    if depth > _MAX_DEPTH:
        raise BadMatFile(f"arrays are nested more than {_MAX_DEPTH} deep")
    if start == end:
        return
    _, flags, flags_end, position = _element(content, start, end)
    _, first, last, position = _element(content, position, end)
    if flags_end - flags != 8 or not 8 <= last - first <= 4 * _MAX_DIMENSIONS:
        raise BadMatFile("an array has no class or dimensions")
    dimensions = struct.unpack_from(f"<{(last - first) // 4}i", content, first)
    _, _, _, position = _element(content, position, end)  # the name
    if any(dimension < 0 for dimension in dimensions):
        raise BadMatFile("an array has a negative dimension")
    array_class = content[flags]
    if array_class == _STRUCT:
        for _ in ("length of the field names", "field names"):
            _, _, _, position = _element(content, position, end)
    elif array_class not in (_CELL, _CHAR, *_NUMERIC):
        raise BadMatFile(f"arrays of class {array_class} are not supported")
    least_bytes = 8 if array_class in (_CELL, _STRUCT) else 1
    if prod(dimensions) * least_bytes > end - position:
        raise BadMatFile(f"an array states {prod(dimensions)} elements but has only {end - position} bytes")
    memory.take(prod(dimensions) * _ELEMENT_BYTES[array_class])
    _check_elements(content, position, end, depth + 1, memory)


FORMAT = DatasetFormat(
    name="imdb-wiki",
    looks_for="IMDB-WIKI: imdb.mat or wiki.mat, and the numbered folders of crops in the same folder",
    image_sets=image_sets,
    image_dir=lambda folder, image_set: folder,
    read=read,
    min_det_score=DETECTED,
    one_face_only=True,
)
