"""What a web page of somebody else can do to a service that takes no keys: nothing.

A page may send simple requests to any host, 127.0.0.1 included, and by DNS rebinding read the answers. Its
requests carry its own `Origin`, and a rebound name stands in `Host`.
"""

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from agegender.errors import Problem
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from agegender_service.problems import problem_response

_PORT = re.compile(r":\d+$")


class RefuseForeignPages:
    """ASGI middleware: 403 for a foreign `Origin`, 421 for a `Host` that is no name of ours.

    Addresses and names without a dot (`localhost`, a container's) cannot be rebound and are taken.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], origins: Collection[str]) -> None:
        self.app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(Headers(scope=scope))) is not None:
            await problem_response(problem)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _problem(self, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return Problem(
                "foreign-host",
                421,
                "This name is not served; the setting ALLOWED_HOSTS lists names that are.",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != host:
            return Problem(
                "foreign-origin",
                403,
                "Pages of other origins are not answered; see the setting CORS_ORIGINS.",
            )
        return None

    def _is_ours(self, host: str) -> bool:
        name = _PORT.sub("", host).lower()
        if "." not in name or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True
