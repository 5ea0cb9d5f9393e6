"""Protect browsers: response headers, and rejection of cross-origin and DNS-rebinding requests."""

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from agegender.errors import Problem
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agegender_service.problems import problem_response

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


class AddSecurityHeaders:
    """ASGI middleware: add the headers that every response carries."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
