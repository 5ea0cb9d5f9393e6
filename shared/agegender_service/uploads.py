"""Read the images of a request, never more bytes than the limit, whatever the client declares."""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from agegender.errors import Problem, client_closed_request
from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from agegender_service.inputs import unknown_input

IMAGE_FIELD = "image"
_FILE = {"type": "string", "format": "binary"}
# OpenAPI's account of what `read_images` takes.
IMAGES_CONTENT: dict[str, dict[str, Any]] = {
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


_ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True)
class UploadLimits:
    max_bytes: int = 20 * 1024 * 1024
    max_images: int = 64
    max_body_bytes: int = 100 * 1024 * 1024


@dataclass(frozen=True)
class Upload:
    """The images of a request in the order sent, and the text fields of its form: name and value."""

    images: list[bytes]
    fields: list[tuple[str, str]]


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
    """Read the images of a route that has no options; raises what `read_upload` raises."""
    upload = await read_upload(request, limits)
    for name, _ in upload.fields:
        raise unknown_input("form field", name, [IMAGE_FIELD])
    return upload.images


async def read_upload(request: Request, limits: UploadLimits) -> Upload:
    """Read a multipart form (field `image`, repeatable, and text fields) or one image as the raw body.

    Raises `Problem`: ``no-image`` 400, ``too-many-images`` or ``body-too-large`` 413, ``bad-multipart`` 400,
    ``invalid-request`` 422 for a file in another field, ``url-not-supported`` 422.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _read_form(request, limits)
    body = await read_body(request, limits.max_bytes)
    if not body:
        raise _no_image()
    return Upload([body], [])


def url_problem(text: str) -> Problem | None:
    """For text that is the address of an image; None for any other text. Data URLs are not addresses."""
    found = _ADDRESS.match(text[:64])
    if found is None:
        return None
    return Problem(
        "url-not-supported",
        422,
        f"The image is given as an address ({found[1].lower()}://…). Fetching addresses is not supported; "
        "send the image itself.",
    )


class _File(BytesIO):
    _rolled = False  # which tells Starlette that writing needs no thread


class _InMemoryParser(MultiPartParser):
    """The body is bounded already, and containers have a read-only root: nothing is spooled to disk."""

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if self._current_part.file is not None:
            self._current_part.file.file = _File()


async def _read_form(request: Request, limits: UploadLimits) -> Upload:
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
        return _sorted_parts(form)
    finally:
        await form.close()


def _sorted_parts(form: FormData) -> Upload:
    upload, wrong = Upload([], []), []
    for name, part in form.multi_items():
        if isinstance(part, str):
            upload.fields.append((name, part))
        elif name != IMAGE_FIELD:
            wrong.append(name)
        elif isinstance(part.file, _File):
            upload.images.append(part.file.getvalue())
    for name, text in upload.fields:
        if name == IMAGE_FIELD:
            raise url_problem(text) or _text_for_image(bool(upload.images))
    if wrong and upload.images:
        raise unknown_input("file field", wrong[0], [IMAGE_FIELD])
    if not upload.images:
        raise _no_image(f"The form has a file in the field {wrong[0][:100]!r}. " if wrong else "")
    return upload


def _text_for_image(others: bool) -> Problem:
    detail = (
        f"The form field {IMAGE_FIELD!r} came as text and not as a file. With curl, put @ before the "
        f"file's name: -F {IMAGE_FIELD}=@photo.jpg."
    )
    return Problem("invalid-request", 422, detail) if others else Problem("no-image", 400, detail)


def _no_image(why: str = "") -> Problem:
    return Problem(
        "no-image",
        400,
        f"{why}No image was sent. Send one or more files in the multipart field 'image' "
        "(curl -F image=@photo.jpg), or the picture as the raw body.",
    )
