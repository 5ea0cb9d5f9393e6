"""Deadlines of requests, and cancelling work when nobody waits for its result any more.

The remaining time travels with a request in milliseconds, so the clocks of services need not agree.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agegender.errors import Problem, client_closed_request
from fastapi import Request

DEADLINE_HEADER = "X-Deadline-Ms"
DEADLINE_PARAMETER = {  # in OpenAPI
    "name": DEADLINE_HEADER,
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "time until the caller gives up, in milliseconds",
}

_UNWATCHED_SECONDS = 0.01  # a cache hit is quicker, and a task to watch its client would cost a tenth of it
SECONDS_PER_IMAGE = 1.0  # extra time for each image after the first


@dataclass(frozen=True)
class Deadline:
    """A moment on this machine's monotonic clock, in seconds.

    latest : the caller's own deadline, which is never extended.
    """

    at: float
    latest: float = math.inf

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    @classmethod
    def of_request(cls, request: Request, limit: float) -> "Deadline":
        """Return the caller's deadline, at most `limit` seconds from now.

        Raises ``bad-deadline`` 400 if the header is not a whole number.
        """
        given = request.headers.get(DEADLINE_HEADER)
        if given is None:
            return cls.after(limit)
        if not (given.isascii() and given.isdigit()):
            raise Problem(
                "bad-deadline",
                400,
                f"The header {DEADLINE_HEADER} is {given[:50]!r}; send the remaining time as a whole number "
                "of milliseconds, such as 5000.",
            )
        latest = time.monotonic() + int(given[:12]) / 1000
        return cls(min(time.monotonic() + limit, latest), latest)

    def for_images(self, count: int) -> "Deadline":
        """Extend the deadline by `SECONDS_PER_IMAGE` for each image after the first."""
        return Deadline(min(self.at + SECONDS_PER_IMAGE * max(0, count - 1), self.latest), self.latest)

    @property
    def remaining(self) -> float:
        """Remaining seconds, never below 0."""
        return max(0.0, self.at - time.monotonic())

    @property
    def headers(self) -> dict[str, str]:
        """Header of a request to another service."""
        return {DEADLINE_HEADER: str(int(self.remaining * 1000))}

    def exceeded(self, *, close_connection: bool = False) -> Problem:
        """Create the problem ``deadline-exceeded`` 504."""
        return Problem(
            "deadline-exceeded",
            504,
            "The answer was not ready within the time allowed. Send fewer images in one request, "
            "ask for fewer faces (max_faces), or allow more time.",
            close_connection=close_connection,
        )


@asynccontextmanager
async def while_awaited(request: Request, deadline: Deadline) -> AsyncIterator[None]:
    """Cancel the block when the client disconnects or the deadline passes.

    The body must have been read before, because a disconnect is only reported after it.

    Raises `Problem`: ``client-closed-request`` 499, ``deadline-exceeded`` 504.
    """
    loop = asyncio.get_running_loop()
    watching: asyncio.Task[None] | None = None
    inside = True

    def watch() -> None:
        nonlocal watching
        watching = loop.create_task(_disconnected(request))
        watching.add_done_callback(hang_up)

    def hang_up(watched: asyncio.Task[None]) -> None:
        if inside and not watched.cancelled() and not patience.expired():
            patience.reschedule(loop.time())

    starting = loop.call_later(_UNWATCHED_SECONDS, watch)
    try:
        async with asyncio.timeout(deadline.remaining) as patience:
            try:
                yield
            finally:
                inside = False
    except TimeoutError:
        if not patience.expired():  # the block's own time-out
            raise
        gone = watching is not None and watching.done()
        raise (client_closed_request() if gone else deadline.exceeded()) from None
    finally:
        starting.cancel()
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
