"""One host name may stand for several containers, as under `docker compose up --scale insightface=3`."""

import asyncio
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import structlog

log = structlog.get_logger(__name__)

_RESOLVE_TIMEOUT = 2.0


async def addresses(urls: Sequence[str]) -> list[str]:
    """Each `http` URL with its host name replaced by every address that it resolves to.

    An `https` URL stays, as its certificate names the host. One that does not resolve is left out.
    """
    found = [address for url in urls for address in await _addresses(url)]
    return list(dict.fromkeys(found))


async def _addresses(url: str) -> list[str]:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return [url]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            answers = await loop.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError as error:
        log.debug("embedder does not resolve", host=parts.hostname, reason=str(error))
        return []
    # A host with both kinds of address is one container, not two.
    families = {family for family, *_ in answers}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    hosts = sorted({str(address[0]) for kind, *_, address in answers if kind == family})
    port = parts.port or 80
    return [f"http://{f'[{host}]' if ':' in host else host}:{port}{parts.path}" for host in hosts]
