"""Guard a service: API keys and their scopes, rate limits, foreign pages, and headers for browsers."""

import ipaddress
import math
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from agegender.errors import Problem
from agegender.keys import ApiKey, Scope, key_of
from fastapi import Request
from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import Counter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from agegender_service.problems import problem_response, wire_format_of
from agegender_service.redis_breaker import TIMEOUT, RedisBreaker
from agegender_service.settings import SERVICE

_CALLER = "agegender.caller"
_KEYS_NEEDED = "agegender.keys_needed"
_MAX_KEY_LENGTH = 512  # characters of a key that are compared

# Paths that need no key. Pages contain no data: they ask for a key and fetch with it. Probes have no key.
OPEN_PATHS = frozenset(
    {"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics", "/docs"}
    | {"/openapi.json"}
)
OPEN_FOLDERS = ("/static/", "/page/", "/web/")

REFUSED = Counter("rate_limited_total", "Requests rejected because their caller exceeded its rate limit")
ERRORS = Counter("rate_limit_errors_total", "Failed Redis calls, after which nobody is limited for a while")

_PORT = re.compile(r":\d+$")

# Headers of every response.
_ALWAYS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
# Headers of every response that does not set its own.
_DEFAULTS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # responses describe people
}
# Headers of the services' web pages. They load nothing from other hosts and run no inline script.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
CAMERA_PAGE_HEADERS = {
    **PAGE_HEADERS,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
# Headers of generated reports, which contain inline styles and images but no script.
REPORT_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"
    )
}


@dataclass(frozen=True)
class Caller:
    """`key` is None if the request carries no known key.

    unknown : whether the request carries a key that the service does not know.
    verified : whether the caller has proved that the key is its own. A signature covers the body, so its
        route checks it after the body was read.
    """

    key: ApiKey | None
    verified: bool = True
    unknown: bool = False


class RequireKey:
    """ASGI middleware: require a key with the service's scope for every path that is not open.

    The key is checked before the body is read. If `keys_needed` is false, every request is accepted and a
    key only identifies the caller.

    count_stranger : counts a request without a known key and returns the problem of one too many. A known
        key is accepted regardless, so nobody can lock out others who share an address.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[ApiKey],
        keys_needed: bool,
        scope: Scope,
        count_stranger: Callable[[AsgiScope], Awaitable[Problem | None]] | None = None,
    ) -> None:
        self.app = app
        self._keys = keys
        self._needed = keys_needed
        self._scope = scope
        self._count_stranger = count_stranger

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        caller = Caller(None)
        try:
            caller = self._identified(scope)
            if self._needed and not is_open(scope["method"], scope["path"]):
                _require(caller, None if scope["path"] == "/info" else self._scope)
        except Problem as problem:
            limited = None
            if caller.key is None and self._count_stranger is not None:
                limited = await self._count_stranger(scope)
            await problem_response(limited or problem, scope)(scope, receive, send)
            return
        scope[_CALLER] = caller
        scope[_KEYS_NEEDED] = self._needed
        await self.app(scope, receive, send)

    def _identified(self, scope: AsgiScope) -> Caller:
        wire_format = wire_format_of(scope)
        if self._needed and wire_format is not None and wire_format.key_of is not None:
            key = wire_format.key_of(scope)
            if key is not None:
                return Caller(key, verified=False)
        given = _given_key(Headers(scope=scope))
        key = key_of(given, self._keys)
        return Caller(key, unknown=bool(given) and key is None)


def is_open(method: str, path: str) -> bool:
    """Return whether a request needs no key."""
    return method in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_FOLDERS))


def caller_of(scope: AsgiScope) -> Caller:
    """Return the caller that `RequireKey` identified."""
    caller: Caller = scope[_CALLER]
    return caller


def needs(scope: Scope) -> Callable[[Request], None]:
    """Return a dependency for routes that require more than the service's scope."""

    def check(request: Request) -> None:
        if request.scope[_KEYS_NEEDED]:
            caller = caller_of(request.scope)
            _require(caller if caller.verified else Caller(None), scope)

    return check


def _require(caller: Caller, scope: Scope | None) -> None:
    key = caller.key
    if key is None and caller.unknown:
        raise Problem(
            "key-unknown",
            401,
            "This service does not know the API key of the request. It may be mistyped, revoked, or another "
            "service's: `agegender key NAME` creates one, and its entry belongs into API_KEYS here.",
        )
    if key is None:
        raise Problem(
            "key-needed",
            401,
            "An API key is required: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY` "
            "(AGEGENDER_API_KEY for the command line).",
        )
    if scope is not None and not key.allows(scope):
        raise Problem(
            "scope-missing",
            403,
            f"API key {key.name!r} lacks the scope {scope.value!r}.",
            scope=scope.value,
        )


def _given_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return given[:_MAX_KEY_LENGTH]


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

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope["method"], scope["path"]):
            caller = caller_of(scope)
            key = caller.key if caller.verified else None  # nobody can use up the rate of another's key
            if key is None or key.name != SERVICE:
                name = f"address:{address_of(scope)}" if key is None else f"key:{key.name}"
                if (problem := await self._limiter.exceeded(name)) is not None:
                    await problem_response(problem, scope)(scope, receive, send)
                    return
        await self.app(scope, receive, send)


def address_of(scope: AsgiScope) -> str:
    """Return the caller's network address; for IPv6 the /64, which one customer owns (RFC 6177)."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((host, 64 if address.version == 6 else 32), strict=False))


class AddSecurityHeaders:
    """ASGI middleware: add the headers that every response carries."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_ALWAYS)
                for name, value in _DEFAULTS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class RejectForeignPages:
    """ASGI middleware: reject a foreign `Origin` (403) and a `Host` name that is not listed (421).

    Without keys, any web page could send simple requests to a service on 127.0.0.1, and read the responses
    by DNS rebinding. Such requests carry the page's own `Origin`, and the rebound name in `Host`. Addresses
    and names without a dot (`localhost`, a container's name) cannot be rebound and are always accepted.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], origins: Collection[str]) -> None:
        self.app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(Headers(scope=scope))) is not None:
            await problem_response(problem, scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _problem(self, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        if not self._is_accepted(host):
            return Problem(
                "foreign-host",
                421,
                f"The host name {host[:100]!r} is not served. Add it to the setting ALLOWED_HOSTS, or set "
                "API_KEYS.",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != host:
            return Problem(
                "foreign-origin",
                403,
                f"Requests from web pages of {origin[:100]!r} are rejected. Add the origin to the setting "
                "CORS_ORIGINS to accept them.",
            )
        return None

    def _is_accepted(self, host: str) -> bool:
        name = _PORT.sub("", host).lower()
        if "." not in name or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True
