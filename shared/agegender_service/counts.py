"""How often each caller asked one service, counted in Redis by all its processes together."""

import asyncio
import ipaddress
import math
import time

import structlog
from agegender.errors import Problem
from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import Counter
from starlette.types import Scope

log = structlog.get_logger(__name__)

_TIMEOUT = 0.25  # seconds that Redis may take
_PAUSE = 5.0  # seconds without a look at a Redis that failed

REFUSED = Counter("rate_limited_total", "Requests refused because their caller asked too often")
ERRORS = Counter("rate_limit_errors_total", "Looks at Redis that failed, so that nobody was limited")


class CallerCounts:
    """Sliding windows. A Redis that is gone, slow or full lets everybody in."""

    def __init__(self, service: str, limit: str, redis_url: str) -> None:
        self._service = service
        self._limits = parse_many(limit)
        self._paused_until = 0.0
        self._counts = SlidingWindowCounterRateLimiter(
            RedisStorage(
                f"async+{redis_url}",
                implementation="redispy",
                key_prefix="agegender:rate",
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
            )
        )

    async def refusal(self, caller: str) -> Problem | None:
        """Count a request; 429 with `Retry-After` where it is one too many."""
        seconds = await self._seconds_to_wait(caller)
        if seconds is None:
            return None
        REFUSED.inc()
        told = ", ".join(str(limit) for limit in self._limits)
        return Problem(
            "rate-limited", 429, f"At most {told} of one caller are answered.", retry_after=seconds
        )

    async def _seconds_to_wait(self, caller: str) -> int | None:
        if time.monotonic() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(_TIMEOUT):
                for limit in self._limits:
                    if not await self._counts.hit(limit, self._service, caller):
                        return await self._until_room(limit, caller)
        except Exception as error:  # whatever Redis or its client does
            self._paused_until = time.monotonic() + _PAUSE
            ERRORS.inc()
            log.warning("nobody is limited", seconds=_PAUSE, reason=f"{type(error).__name__}: {error}")
        return None

    async def _until_room(self, limit: RateLimitItem, caller: str) -> int:
        stats = await self._counts.get_window_stats(limit, self._service, caller)
        return max(1, math.ceil(stats.reset_time - time.time()))


def address_of(scope: Scope) -> str:
    """The caller's network address; of IPv6 the /64, which one customer has whole (RFC 6177)."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((host, 64 if address.version == 6 else 32), strict=False))
