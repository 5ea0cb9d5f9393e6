"""The trainer's HTTP API: data sets, experiments, searches, videos, and a page to follow them."""

import asyncio
import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from agegender.errors import not_found
from agegender.files import why_not_writable
from agegender.keys import Scope
from agegender_service.app import create_app, running
from agegender_service.guards import PAGE_HEADERS
from agegender_service.problems import problem_response
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse
from prometheus_client import REGISTRY
from redis import RedisError

from trainer import routes
from trainer.datasets.uploads import delete_stale_uploads
from trainer.evaluations.evaluation import watch_coverage
from trainer.jobs import EVALUATIONS, KINDS
from trainer.runs.run import unreadable_records
from trainer.runs.scheduler import connect_for_requests, keep_scheduling, queue_away, watch_queue
from trainer.settings import TrainerSettings
from trainer.videos.video import delete_stale_videos

_MAX_BODY = 1024 * 1024  # bytes; requests name data and do not carry it
_UPLOADS = re.compile(r"/datasets/[^/]+/files|/videos")  # but for these, which store what they receive
_PAGE = Path(__file__).with_name("page")
_PAGE_FILES = frozenset(path.name for path in _PAGE.iterdir())

log = structlog.get_logger(__name__)

page = APIRouter(include_in_schema=False)


@page.get("/")
def index() -> FileResponse:
    return FileResponse(_PAGE / "index.html", headers=PAGE_HEADERS)


@page.get("/page/{name}")
def page_file(name: str) -> FileResponse:
    if name not in _PAGE_FILES:
        raise not_found("file of the page", name[:100])
    return FileResponse(_PAGE / name, headers=PAGE_HEADERS)


def create_trainer(settings: TrainerSettings) -> FastAPI:
    """Return the application."""
    redis = connect_for_requests(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        delete_stale_uploads(settings.data_dir)
        delete_stale_videos(settings.data_dir)
        metrics = [
            watch_queue(redis, settings.data_dir),
            watch_coverage(EVALUATIONS, settings.data_dir, settings.heads_dir),
        ]
        try:
            async with running(keep_scheduling(settings, KINDS)):
                yield
        finally:
            for collector in metrics:
                REGISTRY.unregister(collector)
            redis.close()

    async def why_not_ready() -> str | None:
        try:
            await asyncio.to_thread(redis.ping)
        except RedisError as error:
            return f"Redis cannot be reached: {error}"
        return None

    async def info() -> dict[str, Any]:
        urls = {"proxy_url": settings.proxy_url, "predictor_url": settings.predictor_url}
        return {"data_dir": str(settings.data_dir), **urls}

    def warnings() -> list[str]:
        reason = why_not_writable(settings.data_dir)
        unreadable = unreadable_records(settings.data_dir)
        return unreadable if reason is None else [reason, *unreadable]

    app = create_app(
        settings,
        name="age-gender trainer",
        description="Extracts data sets and trains heads with subject-exclusive cross-validation.",
        scope=Scope.TRAIN,
        small_bodies=_MAX_BODY,
        streamed_bodies=_UPLOADS,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        warnings=warnings,
        examples=Path(__file__).with_name("routes") / "examples.json",
    )
    app.add_exception_handler(RedisError, _answer_without_redis)
    app.state.settings = settings
    app.state.redis = redis
    for router in (page, *_routers()):
        app.include_router(router)
    return app


def _routers() -> Iterator[APIRouter]:
    """Return the `router` of each module in `routes` that has one."""
    for found in pkgutil.iter_modules(routes.__path__):
        module = importlib.import_module(f"{routes.__name__}.{found.name}")
        if isinstance(router := getattr(module, "router", None), APIRouter):
            yield router


async def _answer_without_redis(request: Request, error: Exception) -> Response:
    log.error("Redis cannot be reached", path=request.url.path, reason=str(error))
    return problem_response(queue_away(error), request.scope)
