"""Bounded work: what does not fit is refused at once, with the time after which it may."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from agegender.errors import Problem
from agegender.web.deadlines import Deadline
from fastapi import Request

from embedder_proxy.metrics import IN_FLIGHT, QUEUE_SECONDS, REFUSED, WAITING

_LEAST_CHARGE = 256 * 1024  # an open request costs more than its bytes


def _busy(limit: str) -> Problem:
    REFUSED.labels(limit).inc()
    return Problem("busy", 429, "The service has as many requests as it can hold.", retry_after=1)


class BodyMemory:
    """The bytes of all request bodies in memory, charged before they are read."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    @contextmanager
    def reserved(self, request: Request, most: int) -> Iterator[None]:
        """Hold the declared length, or `most` where none is declared. Raises ``busy`` 429."""
        declared = request.headers.get("content-length", "")
        size = min(int(declared[:12]), most) if declared.isascii() and declared.isdigit() else most
        charge = max(size, _LEAST_CHARGE)
        if charge > self._free:
            raise _busy("body-memory")
        self._free -= charge
        try:
            yield
        finally:
            self._free += charge


class Slots:
    """Places at the embedders, taken in the order of arrival."""

    def __init__(self, places: int, waiting: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._may_wait = waiting
        self._waiting = 0

    @asynccontextmanager
    async def place(self, deadline: Deadline) -> AsyncIterator[None]:
        """Raises ``busy`` 429 at once where the queue is full, ``deadline-exceeded`` 504 while waiting."""
        if self._places.locked() and self._waiting >= self._may_wait:
            raise _busy("in-flight")
        await self._take(deadline)
        try:
            with IN_FLIGHT.track_inprogress():
                yield
        finally:
            self._places.release()

    async def _take(self, deadline: Deadline) -> None:
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
            QUEUE_SECONDS.observe(time.perf_counter() - started)
