"""Read the images of a request, never more bytes than the limit, whatever the client declares."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from io import BytesIO

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from agegender.errors import Problem, client_closed_request

IMAGE_FIELD = "image"
_FILE = {"type": "string", "format": "binary"}
# OpenAPI's account of what `read_images` takes.
IMAGES_CONTENT = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": [IMAGE_FIELD],
            "properties": {IMAGE_FIELD: {"type": "array", "items": _FILE, "minItems": 1}},
        }
    },
    "image/*": {"schema": _FILE},
}
_DRAINED = 1024 * 1024 * 1024  # a refused body up to this length may arrive, and is thrown away
_OVERHEAD = 64 * 1024  # of multipart boundaries and part headers


@dataclass(frozen=True)
class UploadLimits:
    max_bytes: int = 20 * 1024 * 1024
    max_images: int = 64
    max_body_bytes: int = 100 * 1024 * 1024


def _too_large(limit: int, *, endless: bool) -> Problem:
    # A client that declared a length reads its answer after sending all of it, so the connection stays;
    # one that declared none may never stop sending.
    return Problem(
        "body-too-large", 413, f"The request has more than {limit} bytes.", close_connection=endless
    )


async def _bounded(request: Request, limit: int) -> AsyncGenerator[bytes]:
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:18]) > limit:
        raise _too_large(limit, endless=int(declared[:18]) > _DRAINED)
    total = 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > limit:
                raise _too_large(limit, endless=True)
            yield chunk
    except ClientDisconnect as error:
        raise client_closed_request() from error


async def read_body(request: Request, limit: int) -> bytes:
    """The body, or the problem ``body-too-large`` 413 as soon as it passes `limit` bytes."""
    body = BytesIO()
    async for chunk in _bounded(request, limit):
        body.write(chunk)
    return body.getvalue()  # a buffer that grew with the body is handed over; to copy it would hold the loop


async def read_images(request: Request, limits: UploadLimits) -> list[bytes]:
    """The images of a multipart form (field `image`, repeatable) or the raw body.

    Raises `Problem`: ``no-image`` 400, ``too-many-images`` or ``body-too-large`` 413,
    ``bad-multipart`` 400.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        images = await _read_form(request, limits)
    else:
        body = await read_body(request, limits.max_bytes)
        images = [body] if body else []
    if not images:
        raise _no_image()
    return images


class _File(BytesIO):
    _rolled = False  # which tells Starlette that writing needs no thread


class _InMemoryParser(MultiPartParser):
    """The body is bounded already, and containers have a read-only root: nothing is spooled to disk."""

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if self._current_part.file is not None:
            self._current_part.file.file = _File()


async def _read_form(request: Request, limits: UploadLimits) -> list[bytes]:
    stream = _bounded(request, limits.max_body_bytes + _OVERHEAD)
    parser = _InMemoryParser(request.headers, stream, max_files=limits.max_images, max_fields=16)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise Problem(
                "too-many-images", 413, f"At most {limits.max_images} images are taken in one request."
            ) from error
        raise Problem("bad-multipart", 400, error.message) from error
    except (KeyError, ValueError) as error:  # no boundary, or one that cannot be decoded
        raise Problem("bad-multipart", 400, "The multipart body cannot be parsed.") from error
    try:
        files = [part.file for part in form.getlist(IMAGE_FIELD) if isinstance(part, UploadFile)]
        return [file.getvalue() for file in files if isinstance(file, _File)]
    finally:
        await form.close()


def _no_image() -> Problem:
    return Problem(
        "no-image",
        400,
        "No image was sent. Send one or more files in the multipart field 'image' "
        "(curl -F image=@photo.jpg), or the picture as the raw body.",
    )
