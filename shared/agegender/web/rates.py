"""How often one caller may ask, counted in Redis by all services together with the others of their name.

A Redis that is gone, slow or full lets everybody in: limits protect from greed, keys from strangers.
"""

import asyncio
import ipaddress
import math
import time

import structlog
from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from agegender.errors import Problem
from agegender.network import SERVICE
from agegender.web.access import caller_of, is_open
from agegender.web.problems import problem_response

log = structlog.get_logger(__name__)

_TIMEOUT = 0.25  # seconds that Redis may take
_PAUSE = 5.0  # seconds without a look at a Redis that failed

REFUSED = Counter("rate_limited_total", "Requests refused because their caller asked too often")
ERRORS = Counter("rate_limit_errors_total", "Looks at Redis that failed, so that nobody was limited")


class LimitRate:
    """ASGI middleware: 429 with `Retry-After` beyond the limit of a key, or of an address without one.

    Raises nothing. The services' own key is not limited: their callers are.
    """

    def __init__(self, app: ASGIApp, *, service: str, limit: str, redis_url: str) -> None:
        self.app = app
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope["method"], scope["path"]):
            await self.app(scope, receive, send)
            return
        seconds = await self._seconds_to_wait(_name(scope))
        if seconds is None:
            await self.app(scope, receive, send)
            return
        REFUSED.inc()
        problem = Problem(
            "rate-limited", 429, f"At most {self._told()} of one caller are answered.", retry_after=seconds
        )
        await problem_response(problem)(scope, receive, send)

    async def _seconds_to_wait(self, caller: str) -> int | None:
        if caller == f"key:{SERVICE}" or time.monotonic() < self._paused_until:
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

    def _told(self) -> str:
        return ", ".join(str(limit) for limit in self._limits)


def _name(scope: Scope) -> str:
    key = caller_of(scope).key
    if key is not None:
        return f"key:{key.name}"
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"address:{host}"
    # One customer has a whole /64 of IPv6 (RFC 6177).
    return f"address:{ipaddress.ip_network((host, 64 if address.version == 6 else 32), strict=False)}"
