"""Bounded work at the embedders: a short queue, and what does not fit is refused at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agegender.errors import Problem
from agegender.web.deadlines import Deadline

from embedder_proxy.metrics import IN_FLIGHT, QUEUE_SECONDS, REFUSED, WAITING


class Slots:
    """Places at the embedders, taken in the order of arrival."""

    def __init__(self, places: int, waiting: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._may_wait = waiting
        self._waiting = 0

    @asynccontextmanager
    async def place(self, deadline: Deadline) -> AsyncIterator[float]:
        """A place, and the seconds waited for it.

        Raises ``busy`` 429 at once where the queue is full, ``deadline-exceeded`` 504 while waiting.
        """
        if self._places.locked() and self._waiting >= self._may_wait:
            REFUSED.inc()
            raise Problem("busy", 429, "The embedders have as many requests as they can hold.", retry_after=1)
        waited = await self._take(deadline)
        try:
            with IN_FLIGHT.track_inprogress():
                yield waited
        finally:
            self._places.release()

    async def _take(self, deadline: Deadline) -> float:
        started = time.perf_counter()
        self._waiting += 1
        try:
            with WAITING.track_inprogress():
                async with asyncio.timeout(deadline.remaining):
                    await self._places.acquire()
        except TimeoutError:
            raise deadline.exceeded() from None
        finally:
            self._waiting -= 1
            waited = time.perf_counter() - started
            QUEUE_SECONDS.observe(waited)
        return waited
