"""Bound the requests at the embedders: a short queue, and an immediate refusal of what cannot be answered."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agegender.errors import busy
from agegender_service.deadlines import Deadline
from prometheus_client import Counter, Gauge, Histogram

SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
QUEUE_SECONDS = Histogram("proxy_queue_seconds", "Wait for a slot at the embedders", buckets=SECONDS_BUCKETS)
IN_FLIGHT = Gauge("proxy_in_flight", "Requests at the embedders now")
WAITING = Gauge("proxy_waiting", "Requests waiting for a slot at the embedders now")
REFUSED = Counter("proxy_refused_total", "Requests refused at once because the queue was full or too slow")

_NEWEST_WEIGHT = 0.2  # of the newest request in the moving average
_DEADLINE_SHARE = 0.6  # that a response may be expected to take; the rest allows for slower ones
_MAX_RETRY_AFTER = 30  # seconds


class Slots:
    """Grant slots at the embedders in the order of arrival.

    A queue that is short in requests is long in seconds if the embedders are slow. A request that would wait
    for most of its time and then miss its deadline is refused, which leaves the time to the others.
    """

    def __init__(self, slots: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(slots)
        self._max_waiting = waiting
        self._waiting = 0
        self._count = slots
        self._mean_seconds = 0.0  # for which recent requests held a slot

    @asynccontextmanager
    async def slot(self, deadline: Deadline) -> AsyncIterator[float]:
        """Hold a slot, and yield the seconds waited for it.

        Raises ``busy`` 429 at once if the queue is full or too slow for the deadline, and
        ``deadline-exceeded`` 504 while waiting.
        """
        if self._free.locked() and not self._may_wait(deadline):
            REFUSED.inc()
            retry_after = min(_MAX_RETRY_AFTER, max(1, math.ceil(self._queue_seconds)))
            detail = "The embedding containers have as many requests as they can answer in time. Retry later."
            raise busy(detail, retry_after=retry_after)
        waited = await self._acquire(deadline)
        started = time.perf_counter()
        try:
            with IN_FLIGHT.track_inprogress():
                yield waited
        finally:
            self._free.release()
            self._mean_seconds += _NEWEST_WEIGHT * (time.perf_counter() - started - self._mean_seconds)

    def _may_wait(self, deadline: Deadline) -> bool:
        expected = self._queue_seconds + self._mean_seconds
        return self._waiting < self._max_waiting and expected <= _DEADLINE_SHARE * deadline.remaining

    @property
    def _queue_seconds(self) -> float:
        """Return the expected wait of a request queued now, in seconds."""
        return self._mean_seconds * (self._waiting + 1) / self._count

    async def _acquire(self, deadline: Deadline) -> float:
        started = time.perf_counter()
        self._waiting += 1
        try:
            with WAITING.track_inprogress():
                async with asyncio.timeout(deadline.remaining):
                    await self._free.acquire()
        except TimeoutError:
            raise deadline.exceeded() from None
        finally:
            self._waiting -= 1
            waited = time.perf_counter() - started
            QUEUE_SECONDS.observe(waited)
        return waited
