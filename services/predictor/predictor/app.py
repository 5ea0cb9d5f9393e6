"""The predictor's application: builds its services, serves its web page, watches for promoted heads."""

import asyncio
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from agegender.errors import Problem
from agegender.keys import Scope
from agegender_service.app import create_app, running
from agegender_service.guards import CAMERA_PAGE_HEADERS
from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from threadpoolctl import threadpool_limits

from predictor.prediction import Services, ServicesIn
from predictor.registry import HeadRegistry
from predictor.routes import (
    age_gender,
    compreface,
    deepface,
    insightface_rest,
    kserve,
    original,
    rekognition,
)
from predictor.settings import PredictorSettings

FILES = Path(__file__).with_name("static")
_PRIVACY = re.compile(r'(?<=<p id="privacy">).*?(?=</p>)', re.DOTALL)
_PROXY_SECONDS = 1.0  # time-out of the page's question to the proxy

router = APIRouter(tags=["page"])


class PageFiles(StaticFiles):
    """Serve the page's files with the headers of pages."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(CAMERA_PAGE_HEADERS)
        return response


@router.get("/", summary="Web page to try the predictor", response_class=HTMLResponse)
async def page(services: ServicesIn) -> HTMLResponse:
    """Return the page, with a statement about storage that is exact if the proxy responds in time.

    The server asks the proxy, because a browser without a key could not.
    """
    text = await run_in_threadpool((FILES / "index.html").read_text)
    try:
        async with asyncio.timeout(_PROXY_SECONDS):
            seconds = (await services.proxy.info()).limits.cache_ttl
    except (Problem, TimeoutError):
        seconds = None
    if seconds is not None:
        text = _PRIVACY.sub(_privacy_statement(seconds), text)
    return HTMLResponse(text, headers=CAMERA_PAGE_HEADERS)


def _privacy_statement(cache_seconds: int) -> str:
    """Return the page's statement about storage, for the seconds that the proxy caches embeddings."""
    if cache_seconds == 0:
        return "Images are sent to this server, answered and forgotten. Nothing is stored."
    minutes = math.ceil(cache_seconds / 60)
    time = "a minute" if minutes == 1 else f"{minutes} minutes"
    return (
        "Images are sent to this server and not stored there. "
        f"Numbers that describe their faces stay in a cache for up to {time}."
    )


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
            age_gender.models_router,
            original.router,
            rekognition.router,
            kserve.router,
            compreface.router,
            deepface.router,
            insightface_rest.router,
            router,
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
    app.mount("/static", PageFiles(directory=FILES), name="static")
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
