"""Read request bodies within limits of bytes, memory and time, and cancel work that nobody awaits."""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any, Generic, TypeVar

from agegender.errors import Problem, busy, client_closed_request
from agegender.faces import EVERY_FACE, FaceSelection
from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import Histogram
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agegender_service.deadlines import DEADLINE_PARAMETER, Deadline, while_awaited
from agegender_service.forms import IMAGE_FIELD, Form, Upload, images_of, is_form, no_image, parse_form
from agegender_service.inputs import reject_ignored_inputs, unknown_input
from agegender_service.observability import Stopwatch
from agegender_service.packed_faces import JSON, faces_media_type
from agegender_service.problems import problem_response
from agegender_service.settings import BodyLimits

Body = TypeVar("Body")

_BINARY = {"type": "string", "format": "binary"}
IMAGES_CONTENT: dict[str, dict[str, Any]] = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": [IMAGE_FIELD],
            "properties": {IMAGE_FIELD: {"type": "array", "items": _BINARY, "minItems": 1}},
        }
    },
    "image/*": {"schema": _BINARY},
}
_NO_HURRY = 1.0  # seconds, as a service may allow as long for responses as for bodies
_MIN_CHARGE = 256 * 1024  # an open request costs more memory than its bytes
_MAX_DRAINED = 1024 * 1024 * 1024  # a rejected body up to this length is received and discarded
_FORM_OVERHEAD = 64 * 1024  # bytes of multipart boundaries and part headers


def body_in_openapi(content: dict[str, Any]) -> dict[str, Any]:
    """Return `openapi_extra` of a route whose body is read by `RequestBodies`."""
    return {"requestBody": {"required": True, "content": content}, "parameters": [DEADLINE_PARAMETER]}


# The body of the original project's requests: a JSON string that contains jsonpickle.
JSON_STRING_IN_OPENAPI = body_in_openapi({"application/json": {"schema": {"type": "string"}}})


@dataclass(frozen=True)
class Received(Generic[Body]):
    """A request whose body has been read, and the deadline of its response."""

    body: Body
    deadline: Deadline
    stopwatch: Stopwatch


class BodyMemory:
    """Account for the bytes of all request bodies in memory, before they are read.

    limit : bytes; infinite for no limit.
    """

    def __init__(self, limit: float) -> None:
        self._free = limit

    @contextmanager
    def reserved(self, request: Request, max_bytes: int) -> Iterator[None]:
        """Reserve the declared length, or `max_bytes` if none is declared. Raises ``busy`` 429."""
        declared = request.headers.get("content-length", "")
        is_number = declared.isascii() and declared.isdigit()
        size = min(int(declared[:12]), max_bytes) if is_number else max_bytes
        charge = max(size, _MIN_CHARGE)
        if charge > self._free:
            raise busy()
        self._free -= charge
        try:
            yield
        finally:
            self._free += charge


class RequestBodies:
    """Frame each request with a body: deadline, memory, reading in time, disconnect.

    Parameters
    ----------
    answer_seconds : time for a response to one image; `Deadline.for_images` adds to it.
    read_seconds : time for a body to arrive.
    max_memory : bytes of all bodies that are being read or processed; infinite for no limit.
    stages : histogram for the stopwatch of each request.
    """

    def __init__(
        self,
        limits: BodyLimits,
        *,
        answer_seconds: float,
        read_seconds: float = 30.0,
        max_memory: float = math.inf,
        stages: Histogram | None = None,
    ) -> None:
        self.limits = limits
        self._answer_seconds = answer_seconds
        self._read_seconds = read_seconds
        self._memory = BodyMemory(max_memory)
        self._stages = stages

    @asynccontextmanager
    async def received(
        self,
        request: Request,
        read: Callable[["BodyReader"], Awaitable[Body]],
        *,
        max_bytes: int,
        images: Callable[[Body], Sequence[object]] = lambda body: (),
    ) -> AsyncIterator[Received[Body]]:
        """Read a body with `read`, and run the block until the deadline passes or the client disconnects.

        images : returns the images of a body, each of which extends the deadline.

        Raises `Problem`: ``busy`` 429, ``slow-request`` 408, ``body-too-large`` 413,
        ``deadline-exceeded`` 504, ``client-closed-request`` 499, and those of `read`.
        """
        deadline = Deadline.of_request(request, self._answer_seconds)
        stopwatch = Stopwatch(self._stages)
        max_bytes = min(max_bytes, self.limits.max_body_bytes)  # for which the settings require memory
        with self._memory.reserved(request, max_bytes):
            with stopwatch.stage("read"):
                body = await read(BodyReader(request, self.limits, max_bytes, self._read_seconds, deadline))
            deadline = deadline.for_images(len(images(body)))
            async with while_awaited(request, deadline):
                yield Received(body, deadline, stopwatch)


@dataclass(frozen=True)
class BodyReader:
    """Read the body of one request, within its limits and in time."""

    request: Request
    limits: BodyLimits
    max_bytes: int
    seconds: float
    deadline: Deadline

    async def whole(self) -> bytes:
        return await self._read_whole(self.max_bytes)

    async def json_with_base64(self) -> bytes:
        return await self._read_whole(self.limits.max_request_bytes * 4 // 3)

    async def upload(self) -> Upload:
        return await read_in_time(read_upload(self.request, self.limits), self.seconds, self.deadline)

    async def form(self, max_files: int = 1) -> Form:
        """Read a multipart form of at most `max_bytes`; raises the problems of `parse_form`."""
        reading = read_form(self.request, self.max_bytes, max_files)
        return await read_in_time(reading, self.seconds, self.deadline)

    async def images(self) -> list[bytes]:
        return await read_in_time(read_images(self.request, self.limits), self.seconds, self.deadline)

    async def _read_whole(self, limit: int) -> bytes:
        return await read_in_time(read_body(self.request, limit), self.seconds, self.deadline)


@dataclass(frozen=True)
class FacesRequest:
    """A request to `POST /faces` of an internal service.

    media_type : `PACKED` or `JSON`, as the client prefers.
    """

    images: list[bytes]
    selection: FaceSelection
    deadline: Deadline
    stopwatch: Stopwatch
    media_type: str = JSON


async def _faces_request(
    request: Request, selection: Annotated[FaceSelection, Query()]
) -> AsyncIterator[FacesRequest]:
    # The options are parameters here, so that wrong ones are rejected before the body is read.
    bodies: RequestBodies = request.app.state.bodies
    async with bodies.received(
        request, BodyReader.images, max_bytes=bodies.limits.max_request_bytes, images=lambda images: images
    ) as received:
        media_type = faces_media_type(request)
        yield FacesRequest(received.body, selection, received.deadline, received.stopwatch, media_type)


# Parameter type of routes for `POST /faces`. The application is created with `create_app(bodies=…)`.
FacesRequestIn = Annotated[FacesRequest, Depends(_faces_request, scope="function")]
FACES_REQUEST_IN_OPENAPI = body_in_openapi(IMAGES_CONTENT)
_faces_received = asynccontextmanager(_faces_request)


class FacesRoute(APIRoute):
    """Call an endpoint with a `FacesRequest` and the application's services.

    FastAPI resolves the same parameters in a quarter of the time that a cache hit takes; this route only
    documents them.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive)
        selection = await _face_selection(request)
        async with _faces_received(request, selection) as received:
            response: Response = await self.endpoint(received, request.app.state.services)
        await response(scope, receive, send)


async def _face_selection(request: Request) -> FaceSelection:
    """Return the selection in the query. Raises ``invalid-request`` 422."""
    if not request.scope["query_string"]:
        return EVERY_FACE
    await reject_ignored_inputs(request)
    try:
        return FaceSelection.model_validate(dict(request.query_params))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        raise RequestValidationError([{**one, "loc": ("query", *one["loc"])} for one in errors]) from error


class LimitBodies:
    """ASGI middleware: read each body whole, within a length and a time, before any route.

    For services whose routes have small JSON bodies: FastAPI itself reads a body of any length, for any time.

    streamed : paths of routes that read their large bodies themselves.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, seconds: float, streamed: re.Pattern[str] | None = None
    ) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] in ("GET", "HEAD")
            or (self._streamed is not None and self._streamed.fullmatch(scope["path"]))
        ):
            await self.app(scope, receive, send)
            return
        try:
            body = await read_in_time(read_body(Request(scope, receive), self._max_bytes), self._seconds)
        except Problem as problem:
            await problem_response(problem, scope)(scope, receive, send)
            return
        delivered = False

        async def receive_again() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()  # reports when the client disconnects
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_again, send)


async def read_in_time(reading: Awaitable[Body], seconds: float, deadline: Deadline | None = None) -> Body:
    """Await the reading of a body for at most `seconds`.

    Raises ``slow-request`` 408, or ``deadline-exceeded`` 504 if the deadline is sooner.
    """
    if deadline is not None and deadline.remaining > seconds - _NO_HURRY:
        deadline = None
    try:
        async with asyncio.timeout(seconds if deadline is None else deadline.remaining):
            return await reading
    except TimeoutError:
        if deadline is not None:
            raise deadline.exceeded(close_connection=True) from None
        raise Problem(
            "slow-request",
            408,
            f"The request body did not arrive within {seconds:g} s. Send it faster, or send less.",
            close_connection=True,
        ) from None


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body; raise ``body-too-large`` 413 as soon as it exceeds `limit` bytes."""
    body = BytesIO()
    async for chunk in _bounded(request, limit):
        body.write(chunk)
    return body.getvalue()  # hands over the buffer without a copy, which would block the event loop


async def read_images(request: Request, limits: BodyLimits) -> list[bytes]:
    """Read the images of a request whose form has no options; raises the problems of `read_upload`."""
    upload = await read_upload(request, limits)
    for name, _ in upload.fields:
        raise unknown_input("form field", name, [IMAGE_FIELD])
    return upload.images


async def read_upload(request: Request, limits: BodyLimits) -> Upload:
    """Read a multipart form (field `image`, repeatable, and text fields) or one image as the raw body.

    Raises `Problem`: ``no-image`` 400, ``too-many-images`` or ``body-too-large`` 413, ``bad-multipart`` 400,
    ``invalid-request`` 422 for a file in another field, ``url-not-supported`` 422.
    """
    if is_form(request.headers):
        return images_of(await read_form(request, limits.max_request_bytes, limits.max_images))
    body = await read_body(request, limits.max_image_bytes)
    if not body:
        raise no_image()
    return Upload([body], [])


async def read_form(request: Request, limit: int, max_files: int) -> Form:
    """Read a multipart form with at most `limit` bytes of files and fields.

    Raises ``body-too-large`` 413 and the problems of `parse_form`.
    """
    return await parse_form(request.headers, _bounded(request, limit + _FORM_OVERHEAD), max_files)


async def body_chunks(request: Request, limit: int, silence: float) -> AsyncGenerator[bytes]:
    """Yield the body as it arrives, for routes that store it.

    limit : bytes. silence : seconds without a byte after which ``slow-request`` 408 is raised.

    Raises ``body-too-large`` 413 as soon as the body exceeds `limit`.
    """
    chunks = _bounded(request, limit)
    with suppress(StopAsyncIteration):
        while True:
            yield await read_in_time(anext(chunks), silence)


async def _bounded(request: Request, limit: int) -> AsyncGenerator[bytes]:
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:18]) > limit:
        raise _too_large(limit, endless=int(declared[:18]) > _MAX_DRAINED)
    total = 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > limit:
                raise _too_large(limit, endless=True)
            yield chunk
    except ClientDisconnect as error:
        raise client_closed_request() from error


def _too_large(limit: int, *, endless: bool) -> Problem:
    # A client that declared a length reads the response after it has sent all of it, so the connection stays
    # open. One that declared none might never stop sending.
    detail = f"The request body exceeds the limit of {limit} bytes."
    return Problem("body-too-large", 413, detail, close_connection=endless)
