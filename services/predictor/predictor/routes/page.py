"""`GET /`: the web page. It consists of plain files and loads nothing from other hosts."""

import asyncio
import math
import re
from pathlib import Path
from typing import Any

from agegender.errors import Problem
from agegender_service.browser_security import CAMERA_PAGE_HEADERS
from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from predictor.services import ServicesIn

FILES = Path(__file__).parents[1] / "static"
_PRIVACY = re.compile(r'(?<=<p id="privacy">).*?(?=</p>)', re.DOTALL)
_PROXY_SECONDS = 1.0  # time-out of the page's question to the proxy

router = APIRouter(tags=["page"])


class PageFiles(StaticFiles):
    """Serve the page's files with the headers of pages."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(CAMERA_PAGE_HEADERS)
        return response


@router.get("/", summary="Web page to try the predictor", response_class=HTMLResponse)
async def page(services: ServicesIn) -> HTMLResponse:
    """Return the page, with a statement about storage that is exact if the proxy responds in time.

    The server asks the proxy, because a browser without a key could not.
    """
    text = await run_in_threadpool((FILES / "index.html").read_text)
    try:
        async with asyncio.timeout(_PROXY_SECONDS):
            seconds = (await services.proxy.info()).limits.cache_ttl
    except (Problem, TimeoutError):
        seconds = None
    if seconds is not None:
        text = _PRIVACY.sub(_privacy_statement(seconds), text)
    return HTMLResponse(text, headers=CAMERA_PAGE_HEADERS)


def _privacy_statement(cache_seconds: int) -> str:
    """Return the page's statement about storage, for the seconds that the proxy caches embeddings."""
    if cache_seconds == 0:
        return "Images are sent to this server, answered and forgotten. Nothing is stored."
    minutes = math.ceil(cache_seconds / 60)
    time = "a minute" if minutes == 1 else f"{minutes} minutes"
    return (
        "Images are sent to this server and not stored there. "
        f"Numbers that describe their faces stay in a cache for up to {time}."
    )
