"""MATLAB level 5 files, element by element, so that tests can state what is not there."""

import struct
import zlib


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
