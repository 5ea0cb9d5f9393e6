"""The HTTP interface of the embedding container."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from agegender.faces import FacesAnswer, FaceSelection
from agegender.keys import Scope
from agegender_service.app import create_app
from agegender_service.deadlines import DEADLINE_PARAMETER, Deadline
from agegender_service.disconnects import while_awaited
from agegender_service.timings import SERVER_TIMING_HEADER, server_timing
from agegender_service.uploads import IMAGES_CONTENT, read_images
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response

from embedder.service import EmbeddingService
from embedder.settings import EmbedderSettings

router = APIRouter(tags=["faces"])


def _service(request: Request) -> EmbeddingService:
    service: EmbeddingService = request.app.state.service
    return service


@router.post(
    "/faces",
    summary="Detect the faces of one or more images and embed them",
    response_model=FacesAnswer,
    openapi_extra={
        "requestBody": {"required": True, "content": IMAGES_CONTENT},
        "parameters": [DEADLINE_PARAMETER],
    },
)
async def faces(
    request: Request,
    selection: Annotated[FaceSelection, Query()],
    service: Annotated[EmbeddingService, Depends(_service)],
) -> Response:
    """One entry per image: its faces, or its problem.

    `Server-Timing` reports the milliseconds in queue, decode, detect and embed.
    """
    deadline = Deadline.of_request(request, service.settings.timeout)
    images = await read_images(request, service.settings.uploads)
    work = service.faces(images, deadline.for_images(len(images)), selection)
    answer, seconds = await while_awaited(request, work)
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
        loading = asyncio.create_task(service.load())
        yield
        loading.cancel()
        service.close()

    async def why_not_ready() -> str | None:
        return service.why_not_ready()

    async def info() -> dict[str, Any]:
        return service.info()

    app = create_app(
        # The proxy in front limits its callers; this container may have no access to Redis.
        settings.model_copy(update={"rate_limit": None, "wrong_key_limit": None}),
        name="insightface",
        description="Detects, aligns and embeds faces. Internal: clients use the embedder-proxy.",
        scope=Scope.PREDICT,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        examples=Path(__file__).with_name("examples.json"),
    )
    app.state.service = service
    app.include_router(router)
    return app
