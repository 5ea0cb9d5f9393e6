"""API keys: identify the caller of a request, and check the scopes of its key."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agegender.errors import Problem
from agegender.keys import ApiKey, Scope, key_of
from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from agegender_service.problems import problem_response, wire_format_of

_CALLER = "agegender.caller"
_KEYS_NEEDED = "agegender.keys_needed"
_MAX_KEY_LENGTH = 512  # characters of a key that are compared

# Paths that need no key. Pages contain no data: they ask for a key and fetch with it. Probes have no key.
OPEN_PATHS = frozenset(
    {"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics", "/docs"}
    | {"/openapi.json"}
)
OPEN_FOLDERS = ("/static/", "/page/", "/web/")


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
