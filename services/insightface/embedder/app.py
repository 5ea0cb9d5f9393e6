"""The HTTP interface of the embedding container."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from agegender.faces import FacesAnswer
from agegender.keys import Scope
from agegender_service.app import create_app, running
from agegender_service.observability import SERVER_TIMING_HEADER, server_timing
from agegender_service.request_body import FACES_REQUEST_IN_OPENAPI, FacesRequestIn, RequestBodies
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from embedder.service import EmbeddingService
from embedder.settings import EmbedderSettings

router = APIRouter(tags=["faces"])


async def _service(request: Request) -> EmbeddingService:  # not `def`, which FastAPI would run in a thread
    service: EmbeddingService = request.app.state.services
    return service


@router.post(
    "/faces",
    summary="Detect the faces of one or more images and embed them",
    response_model=FacesAnswer,
    openapi_extra=FACES_REQUEST_IN_OPENAPI,
)
async def faces(request: FacesRequestIn, service: Annotated[EmbeddingService, Depends(_service)]) -> Response:
    """One entry per image: its faces, or its problem.

    `Server-Timing` reports the milliseconds in queue, decode, detect and embed.
    """
    answer, seconds = await service.faces(request.images, request.deadline, request.selection)
    return Response(
        await asyncio.to_thread(answer.model_dump_json),
        media_type="application/json",
        headers={SERVER_TIMING_HEADER: server_timing(seconds)},
    )


def create_embedder(settings: EmbedderSettings) -> FastAPI:
    """Create the application. It loads the pack from its start on, and is ready once that is done."""
    service = EmbeddingService(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with running(service.load()):
                yield
        finally:
            service.close()

    async def why_not_ready() -> str | None:
        return service.why_not_ready()

    async def info() -> dict[str, Any]:
        return service.info()

    return create_app(
        # The proxy in front limits its callers; this container may have no access to Redis.
        settings.model_copy(update={"rate_limit": None, "wrong_key_limit": None}),
        name="insightface",
        description="Detects, aligns and embeds faces. Internal: clients use the embedder-proxy.",
        scope=Scope.PREDICT,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        routers=[router],
        services=service,
        bodies=RequestBodies(settings.body_limits, answer_seconds=settings.timeout),
        examples=Path(__file__).with_name("examples.json"),
    )
