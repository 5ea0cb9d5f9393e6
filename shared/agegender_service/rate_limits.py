"""Per-caller rate limiting, counted in Redis across all processes of a service."""

import ipaddress
import math
import time

from agegender.errors import Problem
from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from agegender_service.access import caller_of, is_open
from agegender_service.problems import problem_response
from agegender_service.redis_breaker import TIMEOUT, RedisBreaker
from agegender_service.settings import SERVICE

REFUSED = Counter("rate_limited_total", "Requests rejected because their caller exceeded its rate limit")
ERRORS = Counter("rate_limit_errors_total", "Failed Redis calls, after which nobody is limited for a while")


class RateLimiter:
    """Count the requests of each caller in sliding windows.

    Nobody is limited while Redis is unreachable, slow or full.

    Parameters
    ----------
    service : name that separates this service's counts from those of others.
    limit : one or more limits, such as ``60/minute`` or ``10/second;1000/hour``.
    """

    def __init__(self, service: str, limit: str, redis_url: str) -> None:
        self._service = service
        self._limits = parse_many(limit)
        self._breaker = RedisBreaker("rate limits", ERRORS, TIMEOUT)
        self._counts = SlidingWindowCounterRateLimiter(
            RedisStorage(
                f"async+{redis_url}",
                implementation="redispy",
                key_prefix="agegender:rate",
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
            )
        )

    async def exceeded(self, caller: str) -> Problem | None:
        """Count a request; return ``rate-limited`` 429 with `Retry-After` if it exceeds the limit."""
        seconds = await self._seconds_to_wait(caller)
        if seconds is None:
            return None
        REFUSED.inc()
        limits = ", ".join(str(limit) for limit in self._limits)
        return Problem(
            "rate-limited",
            429,
            f"The rate limit of {limits} is exceeded; retry after {seconds} s.",
            retry_after=seconds,
        )

    async def _seconds_to_wait(self, caller: str) -> int | None:
        if self._breaker.is_open:
            return None
        async with self._breaker.guard():
            for limit in self._limits:
                if not await self._counts.hit(limit, self._service, caller):
                    return await self._seconds_to_reset(limit, caller)
        return None

    async def _seconds_to_reset(self, limit: RateLimitItem, caller: str) -> int:
        stats = await self._counts.get_window_stats(limit, self._service, caller)
        return max(1, math.ceil(stats.reset_time - time.time()))


class LimitRate:
    """ASGI middleware: reject requests beyond the limit of their key, or of their address without a key.

    Requests with the services' own key are not limited, because their callers are.
    """

    def __init__(self, app: ASGIApp, *, limiter: RateLimiter) -> None:
        self.app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope["method"], scope["path"]):
            caller = caller_of(scope)
            key = caller.key if caller.verified else None  # nobody can use up the rate of another's key
            if key is None or key.name != SERVICE:
                name = f"address:{address_of(scope)}" if key is None else f"key:{key.name}"
                if (problem := await self._limiter.exceeded(name)) is not None:
                    await problem_response(problem, scope)(scope, receive, send)
                    return
        await self.app(scope, receive, send)


def address_of(scope: Scope) -> str:
    """Return the caller's network address; for IPv6 the /64, which one customer owns (RFC 6177)."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((host, 64 if address.version == 6 else 32), strict=False))
