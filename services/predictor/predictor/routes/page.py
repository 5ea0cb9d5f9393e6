"""`GET /`: a page to try it. Plain files, nothing from other hosts."""

import asyncio
import math
import re
from pathlib import Path
from typing import Any

from agegender.errors import Problem
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from predictor.rooms import Rooms

_FILES = Path(__file__).parents[1] / "static"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

_PRIVACY = re.compile(r'(?<=<p id="privacy">).*?(?=</p>)', re.DOTALL)
_ASK_SECONDS = 1.0  # that the page waits for the proxy


class _PageFiles(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def add_routes(app: FastAPI, rooms: Rooms) -> None:
    @app.get("/", tags=["page"], summary="A page to try it", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """The file's own sentence about storage holds in any case; what the proxy says makes it exact.

        A browser without a key could not ask.
        """
        text = await run_in_threadpool((_FILES / "index.html").read_text)
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                seconds = (await rooms.proxy.info()).limits.cache_ttl
        except (Problem, TimeoutError):
            seconds = None
        if seconds is not None:
            text = _PRIVACY.sub(_stored(seconds), text)
        return HTMLResponse(text, headers=HEADERS)

    app.mount("/static", _PageFiles(directory=_FILES), name="static")


def _stored(cache_seconds: int) -> str:
    """Return the sentence about storage, for the seconds that the proxy keeps embeddings."""
    if cache_seconds == 0:
        return "Images are sent to this server, answered and forgotten. Nothing is stored."
    minutes = math.ceil(cache_seconds / 60)
    time = "a minute" if minutes == 1 else f"{minutes} minutes"
    return (
        "Images are sent to this server and not stored there. "
        f"Numbers that describe their faces stay in a cache for up to {time}."
    )
