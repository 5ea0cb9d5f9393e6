"""Which heads are served, and how to go back to the ones before."""

from typing import Annotated

from agegender.errors import Problem
from agegender.heads.head import Task
from agegender.keys import Scope
from agegender.predictions import Models
from agegender.spaces import NAME
from agegender_service.access import needs
from fastapi import Depends, FastAPI, Query
from starlette.concurrency import run_in_threadpool

from predictor.rooms import Rooms


def add_routes(app: FastAPI, rooms: Rooms) -> None:
    registry = rooms.registry
    admins_only = [Depends(needs(Scope.ADMIN))]

    def told() -> Models:
        return Models(models=registry.status(), warnings=registry.warnings)

    async def space_meant(task: Task) -> str:
        try:
            return (await rooms.proxy.space()).id
        except Problem:
            spaces = [head.space for head in registry.status() if head.task is task and head.previous]
            if len(spaces) != 1:
                raise
            return spaces[0]

    @app.get("/models", tags=["models"], summary="The heads that are served, and their cards")
    async def models() -> Models:
        return told()

    @app.post(
        "/models/refresh", tags=["models"], summary="Look for promoted heads now", dependencies=admins_only
    )
    async def refresh() -> Models:
        await run_in_threadpool(registry.refresh)
        return told()

    @app.post(
        "/models/{task}/rollback",
        tags=["models"],
        summary="Serve the head before the current one",
        dependencies=admins_only,
    )
    async def rollback(
        task: Task,
        space: Annotated[
            str | None,
            Query(
                description="default: that which is served now, or the only one that has a head before",
                pattern=f"^{NAME.pattern}$",
            ),
        ] = None,
    ) -> Models:
        """Once more, and the newer one is back."""
        await run_in_threadpool(registry.rollback, task, space or await space_meant(task))
        return told()
