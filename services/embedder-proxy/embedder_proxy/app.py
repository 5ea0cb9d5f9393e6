"""The proxy's application: `POST /faces` and the original's `POST /`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
from agegender.errors import Problem
from agegender.faces import EVERY_FACE, FacesAnswer, FaceSelection
from agegender.http_clients import direct_client
from agegender.keys import Scope
from agegender.spaces import Space
from agegender.wire import DIMENSION, decode_image_request, encode_faces_answer
from agegender_service.admission import BodyMemory, read_in_time
from agegender_service.app import create_app
from agegender_service.deadlines import DEADLINE_PARAMETER, Deadline
from agegender_service.disconnects import while_awaited
from agegender_service.requests import REQUEST_ID_HEADER, request_id
from agegender_service.timings import SERVER_TIMING_HEADER, server_timing
from agegender_service.uploads import IMAGES_CONTENT, read_body, read_images
from fastapi import FastAPI, Query, Request, Response

from embedder_proxy.agegender_wire import AgegenderWire
from embedder_proxy.cache import FaceCache
from embedder_proxy.embedders import Wire
from embedder_proxy.encoded import EncodedFaces, faces_answer_json
from embedder_proxy.faces import FaceFinder, FoundFaces
from embedder_proxy.original_wire import OriginalWire
from embedder_proxy.pool import Pool
from embedder_proxy.settings import ProxySettings
from embedder_proxy.slots import Slots


@dataclass(frozen=True)
class _Rooms:
    """What one proxy is made of."""

    settings: ProxySettings
    client: httpx.AsyncClient
    pool: Pool
    cache: FaceCache
    finder: FaceFinder
    bodies: BodyMemory


def create_proxy(settings: ProxySettings) -> FastAPI:
    """The application; it looks at its embedders from start on and serves as soon as one is ready."""
    rooms = _furnish(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(rooms.pool.watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await rooms.pool.close()
            await rooms.client.aclose()
            await rooms.cache.close()

    async def why_not_ready() -> str | None:
        return rooms.pool.why_none_ready()

    async def info() -> dict[str, Any]:
        return _info(rooms)

    app = create_app(
        settings,
        name="age-gender embedder-proxy",
        description="Faces and their embeddings, from one or several embedding containers.",
        scope=Scope.PREDICT,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        examples=Path(__file__).with_name("examples.json"),
    )
    _add_faces(app, rooms)
    _add_original(app, rooms)
    return app


def _furnish(settings: ProxySettings) -> _Rooms:
    client = direct_client()
    wire: Wire = (
        OriginalWire(client, settings.image_limits, settings.embedder_space)
        if settings.embedder_wire == "original"
        else AgegenderWire(client, settings.service_headers)
    )
    pool = Pool(
        wire,
        settings.embedder_urls,
        space_id=settings.embedder_space,
        attempts=settings.attempts,
        attempt_timeout=settings.attempt_timeout,
        probe_interval=settings.probe_interval,
    )
    cache = FaceCache(
        settings.redis_url,
        ttl=settings.cache_ttl,
        timeout=settings.cache_timeout,
        secret=settings.cache_secret,
    )
    slots = Slots(settings.max_in_flight, settings.max_waiting)
    finder = FaceFinder(pool, cache, slots, settings.image_limits)
    return _Rooms(settings, client, pool, cache, finder, BodyMemory(settings.max_body_memory))


def _add_faces(app: FastAPI, rooms: _Rooms) -> None:
    limits = rooms.settings.uploads

    @app.post(
        "/faces",
        tags=["faces"],
        summary="Detect faces and embed them",
        response_model=FacesAnswer,
        openapi_extra={
            "requestBody": {"required": True, "content": IMAGES_CONTENT},
            "parameters": [DEADLINE_PARAMETER],
        },
    )
    async def faces(request: Request, selection: Annotated[FaceSelection, Query()]) -> Response:
        """Images as multipart field `image` (repeatable), or one as the raw body; one entry an image.

        `Server-Timing` tells the milliseconds in queue, decode, detect and embed; 0 for what was cached.
        """
        deadline = Deadline.of_request(request, rooms.settings.timeout)
        with rooms.bodies.reserved(request, limits.max_body_bytes):
            images = await read_in_time(read_images(request, limits), rooms.settings.read_timeout, deadline)
            deadline = deadline.for_images(len(images))
            found = await while_awaited(request, rooms.finder.find(images, selection, deadline, _headers()))
        return Response(
            faces_answer_json(found.space, found.images),
            media_type="application/json",
            headers={SERVER_TIMING_HEADER: server_timing(found.seconds)},
        )


def _add_original(app: FastAPI, rooms: _Rooms) -> None:
    most = rooms.settings.max_image_bytes * 4 // 3 + 64 * 1024  # base64 and its wrapping

    @app.post(
        "/",
        tags=["original"],
        summary="The wire format of tae898/face-detection-recognition",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"type": "string"}}},
            },
            "parameters": [DEADLINE_PARAMETER],
        },
    )
    async def original(request: Request) -> Response:
        """A JSON string holding jsonpickle of `{"image": bytes}`, answered in kind; 512-d spaces only."""
        deadline = Deadline.of_request(request, rooms.settings.timeout)
        with rooms.bodies.reserved(request, most):
            body = await read_in_time(read_body(request, most), rooms.settings.read_timeout, deadline)
            _require_original_dimension(rooms.pool.space)
            image = await asyncio.to_thread(decode_image_request, body)
            found = await while_awaited(request, rooms.finder.find([image], EVERY_FACE, deadline, _headers()))
        _require_original_dimension(found.space)
        return Response(await asyncio.to_thread(_original_json, found), media_type="application/json")


def _headers() -> dict[str, str]:
    """What travels on to the embedder beside the deadline."""
    identifier = request_id()
    return {} if identifier is None else {REQUEST_ID_HEADER: identifier}


def _original_json(found: FoundFaces) -> bytes:
    encoded = [one for one in found.images if isinstance(one, EncodedFaces)]  # a lone problem was raised
    return encode_faces_answer([(face, face.embedding) for one in encoded for face in one.decoded().faces])


def _require_original_dimension(space: Space | None) -> None:
    if space is not None and space.dimension != DIMENSION:
        raise Problem(
            "space-mismatch",
            409,
            f"The original's clients take {DIMENSION} numbers a face; this embedder's space is {space}. "
            "Use POST /faces, or start the embedding container with one of InsightFace's packs.",
            wanted=f"{DIMENSION}-d",
            given=str(space),
        )


def _info(rooms: _Rooms) -> dict[str, Any]:
    settings, space = rooms.settings, rooms.pool.space
    return {
        "space": None if space is None else space.model_dump(),
        "embedders": [
            {"url": one.url, "ready": one.ready, "reason": one.reason, "in_flight": one.in_flight}
            for one in rooms.pool.embedders
        ],
        "wire": settings.embedder_wire,
        "limits": {
            name: getattr(settings, name)
            for name in (
                "max_image_bytes",
                "max_image_pixels",
                "max_images",
                "max_request_bytes",
                "max_body_memory",
                "max_in_flight",
                "max_waiting",
                "timeout",
                "cache_ttl",
            )
        },
    }
