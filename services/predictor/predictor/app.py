"""The predictor's application: wires the rooms, watches for promoted heads, says whether it can work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
from agegender.errors import Problem
from agegender.keys import Scope
from agegender_service.app import create_app
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from threadpoolctl import threadpool_limits

from predictor.registry import HeadRegistry
from predictor.rooms import Rooms
from predictor.routes import age_gender, models, original, page
from predictor.settings import PredictorSettings

log = structlog.get_logger(__name__)


def create_predictor(settings: PredictorSettings) -> FastAPI:
    """The application; it serves as soon as the proxy does and there are heads for its space."""
    rooms = Rooms.furnished(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Several BLAS threads make a batch of a few faces slower, and on busy CPUs a hundred times slower.
        threadpool_limits(1, user_api="blas")
        await run_in_threadpool(rooms.registry.refresh)
        watching = asyncio.create_task(_watch(rooms.registry, settings.poll_interval))
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await rooms.proxy.close()
            rooms.batches.close()
            rooms.drawing.close()

    async def why_not_ready() -> str | None:
        try:
            await rooms.proxy.require_ready()
            rooms.registry.heads(await rooms.proxy.space())
        except Problem as problem:
            return problem.detail
        return None

    async def info() -> dict[str, Any]:
        return await _info(rooms)

    app = create_app(
        settings,
        name="age-gender predictor",
        description="One image in; an age and a gender for each face out, with how sure they are.",
        scope=Scope.PREDICT,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        examples=Path(__file__).with_name("examples.json"),
        warnings=lambda: rooms.registry.warnings,
    )
    for subject in (age_gender, models, original, page):
        subject.add_routes(app, rooms)
    return app


async def _watch(registry: HeadRegistry, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            await run_in_threadpool(registry.refresh)
        except Exception as error:  # a volume that hangs or is gone must not end the watch
            log.error("looking for heads failed", exc_info=error)


async def _info(rooms: Rooms) -> dict[str, Any]:
    settings = rooms.settings
    try:
        proxy = await rooms.proxy.info()
    except Problem:
        proxy = None
    return {
        "space": proxy and proxy.space.model_dump(),
        "embedding_cache_seconds": proxy and proxy.limits.cache_ttl,
        "spaces": [space.model_dump() for space in rooms.registry.spaces],
        "models": [status.model_dump(mode="json", exclude={"card"}) for status in rooms.registry.status()],
        "limits": {
            name: getattr(settings, name)
            for name in (
                "max_image_bytes",
                "max_image_pixels",
                "max_images",
                "max_request_bytes",
                "max_body_memory",
                "max_embeddings",
                "timeout",
                "mc_passes",
            )
        },
    }
