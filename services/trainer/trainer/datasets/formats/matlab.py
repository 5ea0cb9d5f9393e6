"""Read MATLAB level 5 files (`.mat`), rejecting those with inconsistent sizes before allocating memory.

SciPy trusts the dimensions and sizes that a file states, so one byte may become an array of a hundred. The
file is therefore checked first, following the MathWorks' "MAT-File Format" (R2024a, chapter 1): each stated
size against the bytes present, and the memory of all arrays against a bound.
"""

import struct
import zlib
from math import prod
from pathlib import Path
from typing import Any

MAX_BYTES = 256 * 1024**2
MAX_UNPACKED = 512 * 1024**2
MAX_MEMORY = 2 * 1024**3
_STRIDE = 1024 * 1024
_MAX_DEPTH, _MAX_DIMENSIONS = 6, 32
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15  # data types
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)  # array classes
# Bytes of memory per element at most: an array object, a character, a complex number.
_ELEMENT_BYTES = {_CELL: 208, _STRUCT: 208, _CHAR: 4, **dict.fromkeys(_NUMERIC, 16)}


class BadMatFile(ValueError):
    """Not a level 5 MATLAB file, or one with inconsistent sizes."""


def read_mat(path: Path, variable: str) -> Any:
    """Return one variable of a level 5 file as SciPy reads it. Raises `BadMatFile`, `OSError`."""
    from scipy.io import loadmat  # takes a third of a second, and only one format needs it

    if path.stat().st_size > MAX_BYTES:
        raise BadMatFile(f"the file is larger than {MAX_BYTES} bytes")
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
        self._left = MAX_MEMORY

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise BadMatFile(f"its arrays need more than {MAX_MEMORY} bytes of memory")


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
