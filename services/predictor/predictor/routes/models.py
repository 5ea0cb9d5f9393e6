"""Show which heads are served, and roll back to previous ones."""

from typing import Annotated

from agegender.errors import Problem
from agegender.heads.head import Task
from agegender.keys import Scope
from agegender.predictions import Models
from agegender.spaces import NAME
from agegender_service.access import needs
from fastapi import APIRouter, Depends, Query
from starlette.concurrency import run_in_threadpool

from predictor.services import Services, ServicesIn

_ADMIN_ONLY = [Depends(needs(Scope.ADMIN))]

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="List the served heads and their cards")
async def models(services: ServicesIn) -> Models:
    return _current(services)


@router.post("/refresh", summary="Look for promoted heads now", dependencies=_ADMIN_ONLY)
async def refresh(services: ServicesIn) -> Models:
    await run_in_threadpool(services.registry.refresh)
    return _current(services)


@router.post("/{task}/rollback", summary="Serve the previous head", dependencies=_ADMIN_ONLY)
async def rollback(
    task: Task,
    services: ServicesIn,
    space: Annotated[
        str | None,
        Query(
            description="default: the space that the proxy uses now, or the only one with a previous head",
            pattern=f"^{NAME.pattern}$",
        ),
    ] = None,
) -> Models:
    """Serve the head that was served before the current one. Call again to go further back.

    A rollback never serves a newer head. To serve one again, promote its experiment.
    """
    selected = space or await _default_space(services, task)
    await run_in_threadpool(services.registry.rollback, task, selected)
    return _current(services)


def _current(services: Services) -> Models:
    return Models(models=services.registry.status(), warnings=services.registry.warnings)


async def _default_space(services: Services, task: Task) -> str:
    try:
        return (await services.proxy.space()).id
    except Problem:
        heads = services.registry.status()
        spaces = [head.space for head in heads if head.task is task and head.previous]
        if len(spaces) != 1:
            raise
        return spaces[0]
