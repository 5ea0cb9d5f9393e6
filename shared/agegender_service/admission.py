"""Bounded intake: a body that does not fit is refused at once, one that does not arrive is given up."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from agegender.errors import Problem, busy
from fastapi import Request

from agegender_service.deadlines import Deadline

Body = TypeVar("Body")

_NO_HURRY = 1.0  # seconds; a service's own time for answers may be as long as that for bodies
_LEAST_CHARGE = 256 * 1024  # an open request costs more than its bytes


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
            raise busy()
        self._free -= charge
        try:
            yield
        finally:
            self._free += charge


async def read_in_time(reading: Awaitable[Body], seconds: float, deadline: Deadline | None = None) -> Body:
    """Raises ``slow-request`` 408 where the body has not arrived after that many seconds.

    Raises ``deadline-exceeded`` 504 where the deadline is sooner.
    """
    if deadline is not None and deadline.remaining > seconds - _NO_HURRY:
        deadline = None
    try:
        async with asyncio.timeout(seconds if deadline is None else deadline.remaining):
            return await reading
    except TimeoutError:
        if deadline is not None:
            raise deadline.exceeded(close_connection=True) from None
        raise Problem(
            "slow-request", 408, "The request's body did not arrive in time.", close_connection=True
        ) from None
