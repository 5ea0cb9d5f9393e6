"""Check the arguments of client methods: images in any form, identifiers, rows of numbers."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar
from urllib.parse import quote

Image: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]"
# So that a list of paths, and one of bytes, are lists of images to a type checker.
SomeImage = TypeVar("SomeImage", bound="str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]")

_EXPECTED = "expected a path (str or Path), bytes, a binary file object, or a list of these"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:(//|.*;base64,)", re.IGNORECASE)


def is_one_image(images: object) -> bool:
    """Whether the argument is a single image and not a list of them."""
    return isinstance(images, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(images, "read")


def contents(images: object) -> list[bytes]:
    """The bytes of one image or of several. Reads files, so that it belongs in a thread in asyncio.

    Raises `TypeError` for other types, `ValueError` for no images and for addresses, `OSError` of a file.
    """
    if is_one_image(images):
        return [_content(images)]
    unordered = isinstance(images, Mapping | set | frozenset)
    if unordered or not isinstance(images, Iterable) or hasattr(images, "__array__"):
        raise TypeError(f"images: got {_kind(images)}; {_EXPECTED}")
    read = [_content(image, f" in the list, at {index}") for index, image in enumerate(images)]
    if not read:
        raise ValueError(f"images: got an empty list; {_EXPECTED}")
    return read


def content(image: object) -> bytes:
    """The bytes of one image. Raises what `contents` raises."""
    if not is_one_image(image):
        raise TypeError(f"image: got {_kind(image)}; expected one path, bytes, or a binary file object")
    return _content(image)


def _content(image: Any, where: str = "") -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return _read(image, where)
    if hasattr(image, "read"):
        read = image.read()
        if isinstance(read, bytes):
            return read
        raise TypeError(f"images: got a file{where} that reads {_kind(read)}; open it in binary mode ('rb')")
    raise TypeError(f"images: got {_kind(image)}{where}; {_EXPECTED}")


def _read(path: str | os.PathLike[str], where: str) -> bytes:
    name = os.fspath(path)
    if isinstance(path, str) and _ADDRESS.match(name):
        raise ValueError(
            f"images: got an address{where} ({name[:40]!r}); download it and pass its bytes, or a path"
        )
    return Path(name).read_bytes()


def path_part(value: object, what: str) -> str:
    """An identifier or name as one segment of a URL's path. Raises `TypeError` and `ValueError`."""
    if not isinstance(value, str):
        own = getattr(value, "id", None) or getattr(value, "name", None)
        hint = f", such as {own!r}" if isinstance(own, str) else ""
        raise TypeError(f"{what}: got {_kind(value)}; expected a str{hint}")
    if not value or set(value) <= {"."}:
        raise ValueError(f"{what}: got {value!r}; expected the {what} as the service lists it")
    return quote(value, safe="")


def request_body(request: object) -> dict[str, Any]:
    """The members of a request that are not None. Raises `TypeError`."""
    if not isinstance(request, Mapping):
        raise TypeError(f"request: got {_kind(request)}; expected a dict such as {{'dataset': 'Adience'}}")
    return {name: value for name, value in request.items() if value is not None}


def embedding_rows(embeddings: Any) -> list[list[float]]:
    """Rows of numbers from lists or a two-dimensional array. Raises `TypeError`."""
    expected = "expected a list of embeddings, each a list of numbers, or an array [faces, dimension]"
    rows = embeddings.tolist() if hasattr(embeddings, "tolist") else embeddings
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise TypeError(f"embeddings: got {_kind(embeddings)}; {expected}")
    made = []
    for index, row in enumerate(rows):
        values = row.tolist() if hasattr(row, "tolist") else row
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            raise TypeError(f"embeddings: got {_kind(row)} at {index}; {expected}")
        made.append([float(value) for value in values])
    return made


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
