"""The proxy's application: `POST /faces`, and `POST /` in the original container's wire format."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
from agegender.errors import Problem
from agegender.faces import EVERY_FACE, FacesAnswer, ImageProblem
from agegender.http_clients import direct_client
from agegender.keys import Scope
from agegender.wire import decode_image_request, encode_faces_answer, require_original_dimension
from agegender_service.app import create_app, running
from agegender_service.observability import SERVER_TIMING_HEADER, server_timing
from agegender_service.packed_faces import PACKED, pack_answer, pack_image
from agegender_service.request_body import (
    FACES_REQUEST_IN_OPENAPI,
    JSON_STRING_IN_OPENAPI,
    BodyReader,
    FacesRequestIn,
    FacesRoute,
    Received,
    RequestBodies,
)
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from embedder_proxy.cache import FaceCache, PackedFaces
from embedder_proxy.embedders import AgegenderWire, OriginalWire, Wire
from embedder_proxy.faces import FaceFinder, FoundFaces
from embedder_proxy.pool import Pool, Slots
from embedder_proxy.settings import ProxySettings

_LIMITS = (
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

_FEW_FACES = 4  # whose JSON takes less time than a change of threads costs

router = APIRouter()
faces_router = APIRouter(route_class=FacesRoute)


@dataclass(frozen=True)
class Services:
    """The parts of one proxy."""

    settings: ProxySettings
    http: httpx.AsyncClient
    pool: Pool
    cache: FaceCache
    finder: FaceFinder
    bodies: RequestBodies

    @classmethod
    def build(cls, settings: ProxySettings) -> "Services":
        http = direct_client(settings.connect_timeout)
        wire: Wire = (
            OriginalWire(http, settings.image_limits, settings.embedder_space)
            if settings.embedder_wire == "original"
            else AgegenderWire(http, settings.service_headers)
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
        bodies = RequestBodies(
            settings.body_limits,
            answer_seconds=settings.timeout,
            read_seconds=settings.read_timeout,
            max_memory=settings.max_body_memory,
        )
        finder = FaceFinder(pool, cache, slots, settings.image_limits)
        return cls(settings, http, pool, cache, finder, bodies)

    async def close(self) -> None:
        await self.pool.close()
        await self.http.aclose()
        await self.cache.close()


def create_proxy(settings: ProxySettings) -> FastAPI:
    """Create the application. It probes its embedders from start on, and serves once one of them is ready."""
    services = Services.build(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with running(services.pool.watch()):
                yield
        finally:
            await services.close()

    async def why_not_ready() -> str | None:
        return services.pool.why_none_ready()

    async def info() -> dict[str, Any]:
        return _info(services)

    return create_app(
        settings,
        name="age-gender embedder-proxy",
        description="Faces and their embeddings, from one or more embedding containers.",
        scope=Scope.PREDICT,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        routers=[faces_router, router],
        services=services,
        bodies=services.bodies,
        examples=Path(__file__).with_name("examples.json"),
    )


async def _services(request: Request) -> Services:  # not `def`, which FastAPI would run in a thread
    services: Services = request.app.state.services
    return services


ServicesIn = Annotated[Services, Depends(_services)]


async def _original_body(request: Request, services: ServicesIn) -> AsyncIterator[Received[bytes]]:
    max_bytes = services.settings.max_image_bytes * 4 // 3 + 64 * 1024  # base64 and its wrapping
    async with services.bodies.received(request, BodyReader.whole, max_bytes=max_bytes) as received:
        yield received


@faces_router.post(
    "/faces",
    tags=["faces"],
    summary="Detect faces and embed them",
    response_model=FacesAnswer,
    openapi_extra=FACES_REQUEST_IN_OPENAPI,
)
async def faces(request: FacesRequestIn, services: ServicesIn) -> Response:
    """Send images in the multipart field `image` (repeatable), or one as the raw body.

    The response has one entry per image, in the order sent: its faces, or a problem. The header
    `Server-Timing` lists the milliseconds in check, cache, queue, decode, detect, embed and transfer. All but
    the first two are 0 or absent for cached images.
    """
    found = await services.finder.find(request.images, request.selection, request.deadline)
    if request.media_type == PACKED:
        entries = [one.packed if isinstance(one, PackedFaces) else pack_image(one) for one in found.images]
        content = pack_answer(found.space, entries)
    elif sum(one.count for one in found.images if isinstance(one, PackedFaces)) <= _FEW_FACES:
        content = _faces_json(found)
    else:
        content = await asyncio.to_thread(_faces_json, found)
    headers = {SERVER_TIMING_HEADER: server_timing(found.seconds), "Vary": "Accept"}
    return Response(content, media_type=request.media_type, headers=headers)


@router.post(
    "/",
    tags=["original"],
    summary="Detect faces, in the wire format of tae898/face-detection-recognition",
    openapi_extra=JSON_STRING_IN_OPENAPI,
)
async def original(
    received: Annotated[Received[bytes], Depends(_original_body, scope="function")], services: ServicesIn
) -> Response:
    """Send a JSON string that contains jsonpickle of `{"image": bytes}`; for spaces of 512 dimensions."""
    if services.pool.space is not None:
        require_original_dimension(services.pool.space)
    image = await asyncio.to_thread(decode_image_request, received.body)
    found = await services.finder.find([image], EVERY_FACE, received.deadline)
    require_original_dimension(found.space)
    (entry,) = found.images
    if isinstance(entry, Problem):
        raise entry
    return Response(await asyncio.to_thread(_original_json, entry), media_type="application/json")


def _faces_json(found: FoundFaces) -> bytes:
    """Return the JSON of an `agegender.faces.FacesAnswer`."""
    entries = [
        ImageProblem(problem=one.document()).model_dump_json().encode()
        if isinstance(one, Problem)
        else one.json
        for one in found.images
    ]
    return b'{"space":%b,"images":[%b]}' % (found.space.model_dump_json().encode(), b",".join(entries))


def _original_json(entry: PackedFaces) -> bytes:
    return encode_faces_answer([(face, face.embedding) for face in entry.image.faces])


def _info(services: Services) -> dict[str, Any]:
    settings, space = services.settings, services.pool.space
    return {
        "space": None if space is None else space.model_dump(),
        "embedders": [
            {"url": one.url, "ready": one.ready, "reason": one.reason, "in_flight": one.in_flight}
            for one in services.pool.embedders
        ],
        "wire": settings.embedder_wire,
        "limits": {name: getattr(settings, name) for name in _LIMITS},
    }
