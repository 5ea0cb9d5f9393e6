"""Who asks, and whether they may. Where no keys are set, everybody on this machine may."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agegender.errors import Problem
from agegender.keys import ApiKey, Scope, key_of
from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from agegender_service.counts import CallerCounts, address_of
from agegender_service.problems import problem_response

_CALLER = "agegender.caller"
_LONGEST = 512  # characters of a key that is looked at

# Pages hold no data: they ask for a key and fetch with it. Probes of health and metrics have no key.
OPEN_PATHS = frozenset(
    {"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics", "/docs"}
    | {"/openapi.json"}
)
OPEN_FOLDERS = ("/static/", "/page/", "/web/")


@dataclass(frozen=True)
class Caller:
    """`key` is None for somebody who showed none."""

    key: ApiKey | None


class RequireKey:
    """ASGI middleware: whatever is not open needs a key with the service's scope, before a body is read.

    Without keys (`keys_needed` false) all is allowed, and a key only tells who asks.
    strangers : counts requests without a right key by address; a right key is answered whatever they say,
    so nobody can lock out another one behind the same address.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[ApiKey],
        keys_needed: bool,
        scope: Scope,
        strangers: CallerCounts | None = None,
    ) -> None:
        self.app = app
        self._keys = keys
        self._needed = keys_needed
        self._scope = scope
        self._strangers = strangers

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        key = key_of(_shown(Headers(scope=scope)), self._keys)
        if self._needed and not is_open(scope["method"], scope["path"]):
            try:
                _require(key, None if scope["path"] == "/info" else self._scope)
            except Problem as problem:
                refusal = None
                if key is None and self._strangers is not None:
                    refusal = await self._strangers.refusal(f"stranger:{address_of(scope)}")
                await problem_response(refusal or problem)(scope, receive, send)
                return
        scope[_CALLER] = Caller(key)
        scope["agegender.keys_needed"] = self._needed
        await self.app(scope, receive, send)


def is_open(method: str, path: str) -> bool:
    return method in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_FOLDERS))


def caller_of(scope: AsgiScope) -> Caller:
    caller: Caller = scope[_CALLER]
    return caller


def needs(wanted: Scope) -> Callable[[Request], None]:
    """A dependency of routes that need more than the service's scope."""

    def check(request: Request) -> None:
        if request.scope["agegender.keys_needed"]:
            _require(caller_of(request.scope).key, wanted)

    return check


def _require(key: ApiKey | None, wanted: Scope | None) -> None:
    if key is None:
        raise Problem(
            "key-needed",
            401,
            "An API key is needed: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY` "
            "(AGEGENDER_API_KEY for the command line).",
        )
    if wanted is not None and not key.allows(wanted):
        raise Problem(
            "scope-missing",
            403,
            f"The key {key.name!r} has not the scope {wanted.value!r}.",
            scope=wanted.value,
        )


def _shown(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return (token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", ""))[:_LONGEST]
