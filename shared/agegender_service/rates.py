"""A limit to how often one caller may ask: limits protect from greed, keys from strangers."""

from starlette.types import ASGIApp, Receive, Scope, Send

from agegender_service.access import caller_of, is_open
from agegender_service.counts import CallerCounts, address_of
from agegender_service.network import SERVICE
from agegender_service.problems import problem_response


class LimitRate:
    """ASGI middleware: 429 with `Retry-After` beyond the limit of a key, or of an address without one.

    Raises nothing. The services' own key is not limited: their callers are.
    """

    def __init__(self, app: ASGIApp, *, counts: CallerCounts) -> None:
        self.app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope["method"], scope["path"]):
            key = caller_of(scope).key
            name = f"address:{address_of(scope)}" if key is None else f"key:{key.name}"
            refusal = None if key is not None and key.name == SERVICE else await self._counts.refusal(name)
            if refusal is not None:
                await problem_response(refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)
