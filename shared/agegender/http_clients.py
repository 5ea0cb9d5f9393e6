"""Set up HTTP clients: service addresses, certificates, and when to use a proxy.

Services call each other directly, whatever the environment defines. The client library and the command line
use the environment's proxy (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) for public hosts only, so
that an API key for a private address never reaches a proxy. `SSL_CERT_FILE` and `SSL_CERT_DIR` apply to all
of them, `.netrc` to none.
"""

import importlib.util
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Annotated, TypedDict
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from pydantic import AfterValidator

from agegender.errors import Problem, forget_frames

# Domains that exist only in private networks: RFC 6761, 6762, 8375, ICANN's .internal, and others' habits.
_PRIVATE_DOMAINS = (
    ".localhost",
    ".local",
    ".internal",
    ".home.arpa",
    ".svc",  # Kubernetes
    ".lan",
    ".home",
    ".intranet",
    ".corp",
    ".private",
    ".test",
)
CONNECT_SECONDS = 1.0  # between services
_KEEP_ALIVE = 15.0  # seconds; less than the servers', which would else close a connection in use
_MAX_BYTES = 256 * 1024 * 1024  # of one response
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


class HttpOptions(TypedDict):
    """Arguments of `httpx.Client` and `httpx.AsyncClient`."""

    trust_env: bool
    verify: ssl.SSLContext
    proxy: str | None


@dataclass(frozen=True)
class EnvironmentProxy:
    """The proxy that the environment defines for an address."""

    variable: str
    url: str

    @property
    def shown(self) -> str:
        """Return the address without its user name and password."""
        return self.url if "@" not in self.url else _without_user(self.url)


def service_url(value: str) -> str:
    """Return the address without a trailing slash. Raises `ValueError` with the reason if it is invalid."""
    text = value.strip()
    hint = "expected an address such as http://127.0.0.1:10003"
    shown = _without_user(text)
    if "://" not in text:
        raise ValueError(f"{shown!r} has no scheme; {hint}")
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL) as error:
        raise ValueError(f"{shown!r} is not an address ({error}); {hint}") from None
    if parts.scheme.lower() not in ("http", "https"):
        raise ValueError(f"{shown!r} has the scheme {parts.scheme!r}; {hint}")
    if not host:
        raise ValueError(f"{shown!r} has no host; {hint}")
    if port == 0:
        raise ValueError(f"{shown!r} has the port 0; {hint}")
    if parts.query or parts.fragment:
        raise ValueError(f"{shown!r} has a query or a fragment; {hint}")
    return text.rstrip("/")


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError(
            f"{_without_user(url)!r} was given with a user name; services authenticate with SERVICE_KEY only"
        )
    return url


UserUrl = Annotated[str, AfterValidator(service_url)]  # a gateway may require a user name and a password
ServiceUrl = Annotated[str, AfterValidator(service_url), AfterValidator(_without_credentials)]


def is_private(host: str) -> bool:
    """Return whether a host is this machine or in a private network, as far as its name or address shows.

    Loopback, RFC 1918, link-local, unique local and shared (RFC 6598) addresses; names of one label, such as
    Compose's ``predictor``; names in domains that only private networks have. No name is resolved.
    """
    name = host.strip("[]").rstrip(".").lower()
    if (address := _address(name)) is not None:
        mapped = getattr(address, "ipv4_mapped", None)
        return not (mapped or address).is_global
    return "." not in name or name.endswith(_PRIVATE_DOMAINS)


def environment_proxy(url: str) -> EnvironmentProxy | None:
    """Return the proxy for a request to `url`; None for private hosts and those in `NO_PROXY`."""
    parts = urlsplit(url)
    if is_private(parts.hostname or "") or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    for name in (parts.scheme.lower(), "all"):
        if proxy := proxies.get(name):
            variable = f"{name}_proxy"
            shown = variable if variable in os.environ else variable.upper()
            return EnvironmentProxy(shown, proxy if "://" in proxy else f"http://{proxy}")
    return None


def direct_options() -> HttpOptions:
    """Return the options for a client of one service in another: no proxy, no `.netrc`.

    Raises ``bad-settings``.
    """
    return HttpOptions(trust_env=False, verify=_certificates(), proxy=None)


def direct_client(connect_timeout: float = CONNECT_SECONDS) -> httpx.AsyncClient:
    """Return a client for one service's requests to another; each request sets its own time limit.

    Raises ``bad-settings`` 400.
    """
    return httpx.AsyncClient(
        timeout=httpx.Timeout(None, connect=connect_timeout),
        limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE),
        **direct_options(),
    )


async def exchange(
    http: httpx.AsyncClient, request: httpx.Request, max_bytes: int = _MAX_BYTES
) -> httpx.Response:
    """Send a request and read the response.

    Raises `httpx.RequestError`, and `ValueError` as soon as the response has more than `max_bytes`.
    """
    try:
        response = await http.send(request, stream=True)
        try:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > max_bytes:
                    raise ValueError(f"it has more than {max_bytes} bytes")
        finally:
            try:
                await response.aclose()
            finally:
                release(response)
    except httpx.TransportError as error:
        forget_frames(error)
        raise
    headers = {name: value for name, value in response.headers.items() if name != "content-encoding"}
    return httpx.Response(response.status_code, headers=headers, content=bytes(content), request=request)


def release(response: httpx.Response) -> None:
    """Let a response that has been read, and the body of its request, be freed at once.

    A response holds its stream and the stream holds the response, so both live until Python collects garbage.
    """
    response.stream = httpx.ByteStream(b"")


def user_options(url: str, certificates: ssl.SSLContext | None = None) -> HttpOptions:
    """Return the options for a client on a user's machine. Raises ``bad-settings`` for an unusable proxy."""
    found = environment_proxy(url)
    if found is not None:
        _require_usable(found, url)
    return HttpOptions(
        trust_env=False,
        verify=_certificates() if certificates is None else certificates,
        proxy=None if found is None else found.url,
    )


def bad_settings(detail: str) -> Problem:
    """Return the problem of an invalid environment of this program; no request was sent."""
    return Problem("bad-settings", 400, detail)


def _require_usable(proxy: EnvironmentProxy, url: str) -> None:
    host = urlsplit(url).hostname
    unset = f"unset it, or set NO_PROXY={host} to connect directly"
    scheme = proxy.url.partition("://")[0].lower()
    if scheme not in _PROXY_SCHEMES:
        raise bad_settings(
            f"{proxy.variable} is {proxy.shown!r}; expected one of the schemes {', '.join(_PROXY_SCHEMES)}. "
            f"Correct it, or {unset}."
        )
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise bad_settings(
            f"{proxy.variable} is {proxy.shown!r}, and SOCKS support is not installed. "
            f"Install it with `pip install 'httpx[socks]'`, or {unset}."
        )
    try:
        if not httpx.URL(proxy.url).host:
            raise ValueError("no host")
    except (ValueError, httpx.InvalidURL) as error:
        raise bad_settings(
            f"{proxy.variable} is {proxy.shown!r}, which is not an address ({error}). Correct it, or {unset}."
        ) from None


def _certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        name = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
        raise bad_settings(
            f"{name} is {os.environ.get(name)!r}, and no certificates can be read from it ({error}). "
            "Correct it, or unset it."
        ) from error


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    try:  # older notations that resolvers accept: 127.1, 0x7f.1, 2130706433
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except (OSError, UnicodeError):
        return None


def _without_user(text: str) -> str:
    scheme, separator, rest = text.rpartition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"
