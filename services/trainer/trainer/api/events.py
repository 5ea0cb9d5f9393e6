"""What server-sent events tell of work that runs: its status at every change, until it is over."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from agegender.errors import Problem

from trainer.experiments.experiment import ExperimentStatus
from trainer.searches.search import SearchStatus

_SECONDS = 0.5  # between two looks

Status = TypeVar("Status", ExperimentStatus, SearchStatus)


async def changes(look: Callable[[], Status]) -> AsyncIterator[Status]:
    """What `look` says at first, and whenever that changes; a thread runs it, as it reads files.

    Ends when the work is over, or deleted meanwhile: a stream that has begun can tell no problem.
    """
    told = ""
    while True:
        try:
            status = await asyncio.to_thread(look)
        except Problem:
            return
        if (text := status.model_dump_json()) != told:
            told = text
            yield status
        if status.state not in ("queued", "running"):
            return
        await asyncio.sleep(_SECONDS)
