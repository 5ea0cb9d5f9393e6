"""The predictor's application: builds its services, watches for promoted heads, reports readiness."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from agegender.errors import Problem
from agegender.keys import Scope
from agegender_service.app import create_app, running
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from threadpoolctl import threadpool_limits

from predictor.registry import HeadRegistry
from predictor.routes import (
    age_gender,
    compreface,
    deepface,
    insightface_rest,
    kserve,
    models,
    original,
    page,
    rekognition,
)
from predictor.services import Services
from predictor.settings import PredictorSettings

log = structlog.get_logger(__name__)

_LIMITS = (
    "max_image_bytes",
    "max_image_pixels",
    "max_images",
    "max_request_bytes",
    "max_body_memory",
    "max_embeddings",
    "timeout",
    "mc_passes",
)


def create_predictor(settings: PredictorSettings) -> FastAPI:
    """Create the application. It serves once the proxy is ready and there are heads for its space."""
    services = Services.build(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Several BLAS threads slow down a batch of a few faces, on busy CPUs a hundredfold.
        threadpool_limits(1, user_api="blas")
        await run_in_threadpool(services.registry.refresh)
        try:
            async with running(_watch(services.registry, settings.poll_interval)):
                yield
        finally:
            await services.close()

    async def why_not_ready() -> str | None:
        try:
            await services.require_ready()
        except Problem as problem:
            return problem.detail
        return None

    async def info() -> dict[str, Any]:
        return await _info(services)

    app = create_app(
        settings,
        name="age-gender predictor",
        description="Age and gender of each face in an image, with a measure of uncertainty.",
        scope=Scope.PREDICT,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        routers=[
            age_gender.router,
            models.router,
            original.router,
            rekognition.router,
            kserve.router,
            compreface.router,
            deepface.router,
            insightface_rest.router,
            page.router,
        ],
        wire_formats=[
            rekognition.wire_format(services.aws_signatures),
            kserve.WIRE_FORMAT,
            compreface.WIRE_FORMAT,
            deepface.WIRE_FORMAT,
            insightface_rest.WIRE_FORMAT,
        ],
        services=services,
        bodies=services.bodies,
        examples=Path(__file__).with_name("examples.json"),
        warnings=lambda: services.registry.warnings,
    )
    app.mount("/static", page.PageFiles(directory=page.FILES), name="static")
    return app


async def _watch(registry: HeadRegistry, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            await run_in_threadpool(registry.refresh)
        except Exception as error:  # a volume that hangs or is missing must not end the watch
            log.error("refreshing heads failed", exc_info=error)


async def _info(services: Services) -> dict[str, Any]:
    try:
        proxy = await services.proxy.info()
    except Problem:
        proxy = None
    registry = services.registry
    return {
        "space": proxy and proxy.space.model_dump(),
        "embedding_cache_seconds": proxy and proxy.limits.cache_ttl,
        "spaces": [space.model_dump() for space in registry.spaces],
        "models": [status.model_dump(mode="json", exclude={"card"}) for status in registry.status()],
        "limits": {name: getattr(services.settings, name) for name in _LIMITS},
    }
