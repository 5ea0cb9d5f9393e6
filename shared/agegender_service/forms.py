"""Parse multipart forms: files and text fields, and the images among them."""

import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import IO

from agegender.errors import Problem
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from agegender_service.inputs import unknown_input

IMAGE_FIELD = "image"
_MAX_FIELDS = 16
_COPIED_AT_ONCE = 1024 * 1024  # bytes; a thread costs more, and copying more blocks the event loop
_MAX_DELIMITER = 74  # bytes of the first line: two hyphens, at most 70 characters (RFC 2046), line break
_DELIMITER = re.compile(rb"--([0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-])\r?\n")
# No image format begins with the bytes FF F0 to FF FF, which are // in base64.
_URL = re.compile(r"\s*(?:([a-z][a-z0-9+.-]*):)?//", re.IGNORECASE)
_DATA_URL = re.compile(r"\s*data:", re.IGNORECASE)
_MAX_TEXT = 1024 * 1024  # bytes of a text field


@dataclass(frozen=True)
class Form:
    """The files of a form as (field, content) in the order sent, and its text fields as (name, value)."""

    files: list[tuple[str, bytes]]
    fields: list[tuple[str, str]]


@dataclass(frozen=True)
class Upload:
    """The images of a request in the order sent, and the text fields of its form as (name, value)."""

    images: list[bytes]
    fields: list[tuple[str, str]]


def is_form(headers: Headers) -> bool:
    """Return whether a request has a multipart form."""
    return headers.get("content-type", "").lower().startswith("multipart/form-data")


async def parse_form(headers: Headers, body: AsyncGenerator[bytes], max_files: int) -> Form:
    """Parse the body of a multipart form.

    A boundary that is missing in the header is read from the first line of the body.

    Raises ``too-many-images`` 413, ``bad-multipart`` 400, and the problems of reading `body`.
    """
    boundary = parse_options_header(headers["content-type"])[1].get(b"boundary")
    if not boundary:
        boundary, body = await _boundary_in_body(body)
        headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary.decode()}"'})
    parser = _InMemoryParser(
        headers, body, max_files=max_files, max_fields=_MAX_FIELDS, max_part_size=_MAX_TEXT
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise too_many_images(max_files) from error
        if "maximum size" in error.message:
            raise Problem(
                "bad-multipart",
                400,
                f"A text field of the form exceeds {_MAX_TEXT} bytes. Send an image as a file, or in JSON.",
            ) from error
        raise Problem("bad-multipart", 400, error.message) from error
    except (KeyError, ValueError) as error:  # a boundary that cannot be decoded
        raise Problem(
            "bad-multipart",
            400,
            "The multipart body cannot be parsed; is the boundary in Content-Type its own?",
        ) from error
    try:
        if not parser.complete:
            raise Problem(
                "bad-multipart",
                400,
                "The multipart body has no closing boundary: it was cut off, or the boundary in Content-Type "
                "is another.",
            )
        parts = form.multi_items()
        files = [(name, part) for name, part in parts if isinstance(part, UploadFile)]
        if sum(part.size or 0 for _, part in files) > _COPIED_AT_ONCE:
            contents = await run_in_threadpool(_contents, files)
        else:
            contents = _contents(files)
        return Form(contents, [(name, part) for name, part in parts if isinstance(part, str)])
    finally:
        await form.close()


def images_of(form: Form) -> Upload:
    """Return the images of a form, which are the files of the field `image`.

    Raises ``no-image`` 400, ``invalid-request`` 422 for files in other fields and for text in the field
    `image`, ``url-not-supported`` 422.
    """
    images = [content for name, content in form.files if name == IMAGE_FIELD]
    misnamed = [name for name, _ in form.files if name != IMAGE_FIELD]
    for name, text in form.fields:
        if name == IMAGE_FIELD:
            raise url_problem(text) or _text_for_image(text, bool(images))
    if misnamed and images:
        raise unknown_input("file field", misnamed[0], [IMAGE_FIELD])
    if not images:
        raise no_image(f"The form has a file in the field {misnamed[0][:100]!r}. " if misnamed else "")
    return Upload(images, form.fields)


def too_many_images(limit: int) -> Problem:
    """Create the problem ``too-many-images`` 413."""
    return Problem(
        "too-many-images",
        413,
        f"The request contains more than {limit} images. Send at most {limit} images per request."
        if limit > 1
        else "The request contains several images. Send one image per request.",
    )


def url_problem(text: str) -> Problem | None:
    """Return the problem ``url-not-supported`` 422 if `text` is a URL other than a data URL."""
    found = _URL.match(text[:64])
    if found is None:
        return None
    return Problem(
        "url-not-supported",
        422,
        f"The image is a URL ({f'{found[1].lower()}:' if found[1] else ''}//…). URLs are not supported; send "
        "the image itself.",
    )


def no_image(reason: str = "") -> Problem:
    """Create the problem ``no-image`` 400."""
    return Problem(
        "no-image",
        400,
        f"{reason}The request contains no image. Send one or more files in the multipart field 'image' "
        "(curl -F image=@photo.jpg), or one image as the raw body.",
    )


async def store_files(
    headers: Headers, body: AsyncGenerator[bytes], field: str, open_file: Callable[[str], IO[bytes]]
) -> None:
    """Write the files of a multipart form to disk while it arrives.

    Parameters
    ----------
    field : name of the form's only field, which is a file and may be repeated.
    open_file : returns the file to write to, for the name that the client gave.

    Raises ``bad-multipart`` 400, ``invalid-request`` 422 for another field or for text, and the problems of
    `open_file` and of reading `body`.
    """
    boundary = parse_options_header(headers.get("content-type"))[1].get(b"boundary")
    if not boundary:
        boundary, body = await _boundary_in_body(body)
    parts = _Parts(field, open_file)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_name,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_headers_finished": parts.headers_finished,
                "on_part_data": parts.data,
                "on_part_end": parts.end,
                "on_end": parts.finish,
            },
        )
        waiting = bytearray()
        async for chunk in body:
            waiting += chunk
            if len(waiting) >= _COPIED_AT_ONCE:
                await run_in_threadpool(parser.write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(parser.write, bytes(waiting))
    except FormParserError as error:
        raise Problem("bad-multipart", 400, f"The multipart body cannot be parsed: {error}.") from error
    finally:
        parts.close()
    if not parts.complete:
        raise Problem(
            "bad-multipart",
            400,
            "The multipart body has no closing boundary: it was cut off, or the boundary in Content-Type is "
            "another.",
        )


class _Parts:
    """Callbacks of a parser, which write the content of each part to a file."""

    complete = False

    def __init__(self, field: str, open_file: Callable[[str], IO[bytes]]) -> None:
        self._field = field
        self._open_file = open_file
        self._file: IO[bytes] | None = None
        self.begin()

    def begin(self) -> None:
        self._disposition = b""
        self._name = self._value = b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        field = options.get(b"name", b"").decode(errors="replace")
        if field != self._field:
            raise unknown_input("form field", field, [self._field])
        if b"filename" not in options:
            raise Problem(
                "invalid-request",
                422,
                f"The form field {field!r} is text, but a file is expected. With curl, put @ before the "
                f"file's name: -F {field}=@faces.zip.",
            )
        self._file = self._open_file(options[b"filename"].decode(errors="replace"))

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])

    def end(self) -> None:
        self.close()

    def finish(self) -> None:
        self.complete = True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _InMemoryParser(MultiPartParser):
    """Never spool files to disk: the body is bounded already, and containers have a read-only root."""

    spool_max_size = 1 << 62
    complete = False

    def on_end(self) -> None:  # called at the closing boundary
        self.complete = True


async def _boundary_in_body(body: AsyncGenerator[bytes]) -> tuple[bytes, AsyncGenerator[bytes]]:
    """Return the boundary in the first line of a body, and the whole body."""
    start = b""
    async for chunk in body:
        start += chunk
        if b"\n" in start or len(start) > _MAX_DELIMITER:
            break
    delimiter = _DELIMITER.match(start)
    if delimiter is None:
        raise Problem(
            "bad-multipart",
            400,
            "The header Content-Type has no boundary, and the body does not begin with one. Send the header "
            "that your HTTP library makes for a form.",
        )

    async def whole() -> AsyncGenerator[bytes]:
        yield start
        async for chunk in body:
            yield chunk

    return delimiter[1], whole()


def _contents(files: list[tuple[str, UploadFile]]) -> list[tuple[str, bytes]]:
    contents = []
    for name, part in files:
        with part.file as file:  # closed at once, so that only one image is in memory twice
            contents.append((name, file.read()))
    return contents


def _text_for_image(text: str, others: bool) -> Problem:
    if _DATA_URL.match(text[:64]):
        advice = f'Send it in JSON: {{"{IMAGE_FIELD}": "data:image/…"}} to POST /age-gender of the predictor.'
        detail = f"The form field {IMAGE_FIELD!r} is a data URL, but a file is expected. {advice}"
    else:
        detail = (
            f"The form field {IMAGE_FIELD!r} is text, but a file is expected. With curl, put @ before the "
            f"file's name: -F {IMAGE_FIELD}=@photo.jpg."
        )
    return Problem("invalid-request", 422, detail) if others else Problem("no-image", 400, detail)
