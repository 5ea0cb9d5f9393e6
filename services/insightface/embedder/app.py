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
from fastapi import FastAPI, Query, Request, Response

from embedder.service import EmbeddingService
from embedder.settings import EmbedderSettings


def make_app(settings: EmbedderSettings) -> FastAPI:
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
        pack = service.pack
        return {
            "pack": settings.pack,
            "space": pack.space.model_dump() if pack else None,
            "models": pack.models if pack else [],
            "progress": service.progress,
            "limits": {"max_faces": settings.max_faces, "max_images": settings.max_images},
        }

    app = create_app(
        # The proxy in front limits its callers; this container may reach no Redis.
        settings.model_copy(update={"rate_limit": None, "wrong_key_limit": None}),
        name="insightface",
        description="Detects faces, aligns them and embeds them. Internal: the embedder-proxy is its front.",
        scope=Scope.PREDICT,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        examples=Path(__file__).with_name("examples.json"),
    )

    @app.post(
        "/faces",
        tags=["faces"],
        summary="Faces and embeddings of one or more images",
        response_model=FacesAnswer,
        openapi_extra={
            "requestBody": {"required": True, "content": IMAGES_CONTENT},
            "parameters": [DEADLINE_PARAMETER],
        },
    )
    async def faces(request: Request, selection: Annotated[FaceSelection, Query()]) -> Response:
        """`Server-Timing` tells the milliseconds in queue, decode, detect and embed."""
        deadline = Deadline.of_request(request, settings.timeout)
        images = await read_images(request, settings.uploads)
        work = service.faces(images, deadline.for_images(len(images)), selection)
        answer, seconds = await while_awaited(request, work)
        return Response(
            await asyncio.to_thread(answer.model_dump_json),
            media_type="application/json",
            headers={SERVER_TIMING_HEADER: server_timing(seconds)},
        )

    return app
