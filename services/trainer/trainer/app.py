"""The trainer's HTTP API: data sets, experiments, and a page to follow them on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from agegender.files import why_not_writable
from agegender.keys import Scope
from agegender_service.app import create_app
from agegender_service.problems import problem_response
from fastapi import FastAPI, Request, Response
from prometheus_client import REGISTRY
from redis import RedisError

from trainer.api import datasets, experiments, page, searches
from trainer.experiments.schedule import reconcile_all
from trainer.extraction.schedule import reconcile_extractions
from trainer.metrics import watch_queue
from trainer.queues import connect, connect_impatiently, give_up_dead_jobs, job_queue, queue_away
from trainer.records import left_out
from trainer.searches.schedule import reconcile_searches
from trainer.settings import TrainerSettings

_MAX_BODY = 1024 * 1024  # bytes; requests name data, they do not bring it

log = structlog.get_logger(__name__)


def create_trainer(settings: TrainerSettings) -> FastAPI:
    redis = connect_impatiently(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        keeping = asyncio.create_task(_keep_in_step(settings))
        watching = watch_queue(redis, settings.data_dir)
        try:
            yield
        finally:
            REGISTRY.unregister(watching)
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            redis.close()

    async def why_not_ready() -> str | None:
        try:
            await asyncio.to_thread(redis.ping)
        except RedisError as error:
            return f"Redis cannot be reached: {error}"
        return None

    async def info() -> dict[str, Any]:
        return {"data_dir": str(settings.data_dir), "proxy_url": settings.proxy_url}

    def warnings() -> list[str]:
        reason = why_not_writable(settings.data_dir)
        damaged = left_out(settings.data_dir)
        return damaged if reason is None else [reason, *damaged]

    app = create_app(
        settings,
        name="age-gender trainer",
        description="Extracts data sets and trains heads by leave-one-fold-out cross-validation.",
        scope=Scope.TRAIN,
        small_bodies=_MAX_BODY,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        warnings=warnings,
        examples=Path(__file__).with_name("api") / "examples.json",
    )
    app.add_exception_handler(RedisError, _tell_that_redis_is_away)
    app.state.settings = settings
    app.state.redis = redis
    for room in (datasets, experiments, searches, page):
        app.include_router(room.router)
    return app


async def _tell_that_redis_is_away(request: Request, error: Exception) -> Response:
    log.error("Redis cannot be reached", path=request.url.path, reason=str(error))
    return problem_response(queue_away(error))


async def _keep_in_step(settings: TrainerSettings) -> None:
    """Every few seconds, enqueue what Redis or a dead worker lost."""
    queue = job_queue(connect(settings), settings)
    steps: dict[str, Callable[[], None]] = {
        "dead jobs": partial(give_up_dead_jobs, queue),
        "experiments": partial(reconcile_all, settings.data_dir, queue),
        "searches": partial(reconcile_searches, settings.data_dir, queue),
        "extractions": partial(reconcile_extractions, settings.data_dir, queue),
    }
    while True:
        if (reason := why_not_writable(settings.data_dir)) is None:
            for name, step in steps.items():
                try:
                    await asyncio.to_thread(step)
                except (
                    Exception
                ) as error:  # Redis away, the volume full: try again; the next step has its turn
                    log.warning("queue and files not compared", of=name, error=str(error))
        else:  # a job would fail, and could not even say so
            log.warning("no jobs enqueued", reason=reason)
        await asyncio.sleep(settings.reconcile_seconds)
