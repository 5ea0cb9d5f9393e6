"""Suspend the calls to a Redis that a service can do without, while it is unreachable, slow or full."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from prometheus_client import Counter

log = structlog.get_logger(__name__)

TIMEOUT = 0.25  # seconds for Redis to respond
_PAUSE = 5.0  # seconds without Redis calls after a failed one


class RedisBreaker:
    """Circuit breaker: after a failed call no other is made for five seconds.

    A Redis that hangs then costs one time-out per pause, instead of one per request.

    Parameters
    ----------
    use : what Redis is used for, for the log.
    errors : counts the failures.
    timeout : seconds for the calls of one block.
    """

    def __init__(self, use: str, errors: Counter, timeout: float = TIMEOUT) -> None:
        self._use = use
        self._errors = errors
        self._timeout = timeout
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._open_until

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Run a block of Redis calls; open the breaker if one of them fails or takes too long.

        Errors end the block and do not reach its caller, so initialise the results before it.
        """
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except Exception as error:  # whatever Redis or its client raises
            self._open_until = time.monotonic() + _PAUSE
            self._errors.inc()
            reason = f"{type(error).__name__}: {error}"
            log.warning("Redis suspended", use=self._use, seconds=_PAUSE, reason=reason)
