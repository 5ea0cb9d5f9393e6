"""Bounded work at the embedders: a short queue, and what does not fit, or not in time, is refused at once."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agegender.errors import busy
from agegender_service.deadlines import Deadline

from embedder_proxy.metrics import IN_FLIGHT, QUEUE_SECONDS, REFUSED, WAITING

_NEWEST = 0.2  # weight of the newest request in the mean
_OF_DEADLINE = 0.6  # that an answer may be expected to take; the rest is for what goes slower than lately
_LONGEST_RETRY = 30


class Slots:
    """Places at the embedders, taken in the order of arrival.

    A queue that is short in numbers is long in seconds where the embedders are slow. What would wait for most
    of its time and then be late is refused, so that the time goes to those who can be answered.
    """

    def __init__(self, places: int, waiting: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._may_wait = waiting
        self._waiting = 0
        self._number = places
        self._held = 0.0  # seconds that a place was held lately

    @asynccontextmanager
    async def place(self, deadline: Deadline) -> AsyncIterator[float]:
        """A place, and the seconds waited for it.

        Raises ``busy`` 429 at once where the queue is full or too slow for the deadline, and
        ``deadline-exceeded`` 504 while waiting.
        """
        if self._places.locked() and not self._has_room(deadline):
            REFUSED.inc()
            retry_after = min(_LONGEST_RETRY, max(1, math.ceil(self._queue_seconds)))
            detail = "The embedders have as many requests as they can hold, or can answer in time."
            raise busy(detail, retry_after=retry_after)
        waited = await self._take(deadline)
        started = time.perf_counter()
        try:
            with IN_FLIGHT.track_inprogress():
                yield waited
        finally:
            self._places.release()
            self._held += _NEWEST * (time.perf_counter() - started - self._held)

    def _has_room(self, deadline: Deadline) -> bool:
        expected = self._queue_seconds + self._held
        return self._waiting < self._may_wait and expected <= _OF_DEADLINE * deadline.remaining

    @property
    def _queue_seconds(self) -> float:
        """That a request which joins the queue now may expect to wait there."""
        return self._held * (self._waiting + 1) / self._number

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
