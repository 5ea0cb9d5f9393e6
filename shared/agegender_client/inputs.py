"""Arguments of the client: images as paths, bytes and files, and embeddings. Errors name what they got."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

from agegender.errors import Problem
from agegender.faces import ImageFaces, ImageProblem
from agegender.predictions import ImageAnswer

Image: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]"
# A type variable, so that a list of paths and a list of bytes are lists of images to a type checker.
SomeImage = TypeVar("SomeImage", bound="str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]")
Entry = TypeVar("Entry", ImageAnswer, ImageFaces)
_EXPECTED_IMAGES = "expected a path (str or Path), bytes, a binary file object, or a list of these"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[^,]*,", re.IGNORECASE)


def sole(entries: Sequence[Entry | ImageProblem]) -> Entry:
    """Return the entry of the only image of a request. Raises its problem if it has one."""
    (entry,) = entries
    if isinstance(entry, ImageProblem):
        raise Problem.from_document(entry.problem)
    return entry


def is_one_image(images: object) -> bool:
    """Return whether the argument is a single image rather than a list of images."""
    return isinstance(images, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(images, "read")


def read_images(images: object) -> list[bytes]:
    """Return the bytes of one image or of several. Reads files, so asyncio programs call it in a thread.

    Raises `TypeError` for other types, `ValueError` for no images and for URLs, and `OSError` for a file
    that cannot be read.
    """
    if is_one_image(images):
        return [_read_image(images)]
    unordered = isinstance(images, Mapping | set | frozenset)
    if unordered or not isinstance(images, Iterable) or hasattr(images, "__array__"):
        raise TypeError(f"images: got {type_of(images)}; {_EXPECTED_IMAGES}")
    read = [_read_image(image, f" in the list, at {index}") for index, image in enumerate(images)]
    if not read:
        raise ValueError(f"images: got an empty list; {_EXPECTED_IMAGES}")
    return read


def read_image(image: object) -> bytes:
    """Return the bytes of one image. Raises as `read_images` does."""
    if not is_one_image(image):
        raise TypeError(f"image: got {type_of(image)}; expected one path, bytes, or a binary file object")
    return _read_image(image)


def _read_image(image: Any, position: str = "") -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return _read_file(image, position)
    if hasattr(image, "read"):
        read = image.read()
        if isinstance(read, bytes):
            return read
        raise TypeError(
            f"images: got a file{position} that reads {type_of(read)}; open it in binary mode ('rb')"
        )
    raise TypeError(f"images: got {type_of(image)}{position}; {_EXPECTED_IMAGES}")


def _read_file(path: str | os.PathLike[str], position: str) -> bytes:
    name = os.fspath(path)
    if isinstance(path, str) and _ADDRESS.match(name):
        raise ValueError(
            f"images: got an address{position} ({name[:40]!r}); download it and pass its bytes, or a path"
        )
    if isinstance(path, str) and _DATA_URL.match(name):
        raise ValueError(f"images: got a data URL{position} ({name[:40]!r}); decode it and pass its bytes")
    return Path(name).read_bytes()


def embedding_rows(embeddings: Any) -> list[list[float]]:
    """Return embeddings, lists or an array [faces, dimension], as lists of floats."""
    expected = "expected a list of embeddings, each a list of numbers, or an array [faces, dimension]"
    rows = embeddings.tolist() if hasattr(embeddings, "tolist") else embeddings
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise TypeError(f"embeddings: got {type_of(embeddings)}; {expected}")
    converted = []
    for index, row in enumerate(rows):
        values = row.tolist() if hasattr(row, "tolist") else row
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            raise TypeError(f"embeddings: got {type_of(row)} at {index}; {expected}")
        converted.append([float(value) for value in values])
    return converted


def type_of(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
