"""Create a service's FastAPI application with guards, health, metrics, `/info` and `/docs`, and serve it."""

import asyncio
import ctypes
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from html import escape
from pathlib import Path
from typing import Any

import fastapi_offline
import uvicorn
from agegender import __version__
from agegender.errors import Problem, not_ready
from agegender.keys import Scope
from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.types import Scope as AsgiScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agegender_service.guards import (
    PAGE_HEADERS,
    AddSecurityHeaders,
    LimitRate,
    RateLimiter,
    RejectForeignPages,
    RequireKey,
    address_of,
)
from agegender_service.inputs import complete_openapi, reject_ignored_inputs, route_examples
from agegender_service.observability import IdentifyRequests, ObserveRequests, configure_logs
from agegender_service.problems import WireFormat, add_problem_handlers
from agegender_service.request_body import LimitBodies, RequestBodies
from agegender_service.settings import ServiceSettings, UnusableSettings

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
_BODY_SECONDS = 30.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE_BLOCK = 2**17
_FILES = Path(__file__).parent / "static"
# Swagger UI comes from an installed package, so it works offline and no other host sees the keys entered
# there. The package's own page has an inline script, which our policy forbids, so only its files are served.
_SWAGGER = Path(fastapi_offline.__file__).parent / "static"

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class ProblemDocument(BaseModel):
    """Error response (RFC 9457). `type` is stable; programs may depend on it."""

    type: str
    title: str
    status: int
    detail: str


def create_app(
    settings: ServiceSettings,
    *,
    name: str,
    description: str,
    scope: Scope,
    lifespan: Lifespan,
    why_not_ready: Callable[[], Awaitable[str | None]],
    info: Callable[[], Awaitable[dict[str, Any]]],
    routers: Sequence[APIRouter] = (),
    services: object = None,
    bodies: RequestBodies | None = None,
    examples: Path | None = None,
    warnings: Callable[[], list[str]] = list,
    small_bodies: int | None = None,
    streamed_bodies: re.Pattern[str] | None = None,
    wire_formats: Sequence[WireFormat] = (),
) -> FastAPI:
    """Create the application, with `/health/live`, `/health/ready`, `/metrics`, `/info` and `/docs`.

    Parameters
    ----------
    scope : required of a key for every route that is not open (`agegender_service.guards.OPEN_PATHS`).
    why_not_ready : returns the reason why the service cannot work now, or None if it can.
    info : returns what `/info` reports in addition to name and version: space, models, limits.
    services : kept as `app.state.services` for the routes' dependencies.
    bodies : reads the bodies of routes that use `agegender_service.request_body`.
    examples : a file for `agegender_service.inputs.route_examples`.
    warnings : returns problems that do not prevent work; `/health/ready` reports them.
    small_bodies : maximum bytes of any body; None if the routes limit the bodies that they read.
    streamed_bodies : paths of routes that read bodies larger than `small_bodies` themselves.
    wire_formats : of other systems whose clients are served.
    """
    app = FastAPI(
        title=name,
        description=description,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(reject_ignored_inputs)],
        responses={"default": {"model": ProblemDocument, "description": "RFC 9457 problem document"}},
    )
    app.state.services = services
    app.state.bodies = bodies
    app.state.wire_formats = wire_formats
    _add_guards(app, settings, name, scope, small_bodies, streamed_bodies)
    add_problem_handlers(app)
    _add_documentation(app)
    complete_openapi(app, route_examples(*([examples] if examples else [])))

    @app.get("/health/live", tags=["health"], summary="Check that the process runs")
    @app.get("/v2/health/live", include_in_schema=False)
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get(
        "/health/ready",
        tags=["health"],
        summary="Check that the service can work; 503 with the reason if not",
    )
    @app.get("/v2/health/ready", include_in_schema=False)
    async def ready() -> dict[str, bool | list[str]]:
        reason = await why_not_ready()
        if reason is not None:
            raise not_ready(reason)
        current = warnings()
        return {"ready": True, "warnings": current} if current else {"ready": True}

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=PlainTextResponse)
    def metrics() -> Response:  # in a thread, because the trainer's metrics query Redis
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/info", tags=["health"], summary="Version, space, models, limits")
    async def about() -> dict[str, Any]:
        return {"service": name, "version": __version__, **await info()}

    for router in routers:
        app.include_router(router)
    return app


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` in the background of the block, and cancel it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def return_large_blocks() -> None:
    """Return each freed block of 128 KiB or more to the system at once, where the C library is glibc.

    By default glibc keeps freed blocks of up to 32 MiB, and up to 64 MiB at the end of its heap: after a few
    large bodies a service held 100 MB more, in an amount that differed from run to run. Not for a service
    that computes: each new block costs the time in which the system clears it.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            libc.mallopt(parameter, _LARGE_BLOCK)


def serve(app: FastAPI, settings: ServiceSettings, port: int) -> None:
    """Serve until SIGTERM, then finish the accepted requests and stop.

    Raises `UnusableSettings` if other machines could reach the service without a key.
    """
    configure_logs(settings.log_format, settings.log_level)
    settings.log_deprecations()
    if (reason := settings.why_exposed()) is not None:
        raise UnusableSettings(reason)
    uvicorn.run(
        app,
        host=settings.host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=BoundedHeads,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=20,
    )


def _add_guards(
    app: FastAPI,
    settings: ServiceSettings,
    name: str,
    scope: Scope,
    small_bodies: int | None,
    streamed_bodies: re.Pattern[str] | None,
) -> None:
    """Add the middlewares. Starlette runs first what was added last."""
    keys_needed = bool(settings.api_keys)
    if small_bodies is not None:
        app.add_middleware(
            LimitBodies, max_bytes=small_bodies, seconds=_BODY_SECONDS, streamed=streamed_bodies
        )
    if settings.rate_limit is not None:
        app.add_middleware(LimitRate, limiter=RateLimiter(name, settings.rate_limit, settings.redis_url))
    count_stranger = None
    if keys_needed and settings.wrong_key_limit:
        count_stranger = _stranger_counter(RateLimiter(name, settings.wrong_key_limit, settings.redis_url))
    app.add_middleware(
        RequireKey,
        keys=settings.known_keys,
        keys_needed=keys_needed,
        scope=scope,
        count_stranger=count_stranger,
    )
    if not keys_needed:
        app.add_middleware(RejectForeignPages, hosts=settings.allowed_hosts, origins=settings.cors_origins)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID", "X-Deadline-Ms", "Idempotency-Key"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    app.add_middleware(AddSecurityHeaders)
    app.add_middleware(ObserveRequests)
    app.add_middleware(IdentifyRequests)


def _stranger_counter(limiter: RateLimiter) -> Callable[[AsgiScope], Awaitable[Problem | None]]:
    async def count(scope: AsgiScope) -> Problem | None:
        return await limiter.exceeded(f"stranger:{address_of(scope)}")

    return count


def _add_documentation(app: FastAPI) -> None:
    """Add `/docs`, and `/web/` with the files that the pages of several services share."""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(app.title)}: API</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="/web/swagger/favicon.png">
<link rel="stylesheet" href="/web/swagger/swagger-ui.css">
</head><body><div id="swagger-ui"><a href="/openapi.json">openapi.json</a></div>
<script src="/web/swagger/swagger-ui-bundle.js"></script>
<script src="/web/docs.js"></script></body></html>"""

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=PAGE_HEADERS)

    app.mount("/web/swagger", StaticFiles(directory=_SWAGGER), name="swagger")
    app.mount("/web", StaticFiles(directory=_FILES), name="web")


class BoundedHeads(HttpToolsProtocol):
    """Close a connection whose request head (request line and headers) exceeds a time or a length.

    The limits are `HEAD_SECONDS` and `HEAD_BYTES`; uvicorn itself has none.
    """

    _closing: asyncio.TimerHandle | None = None
    _bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._closing is not None:
            self._bytes += len(data)
            if self._bytes > HEAD_BYTES:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._closing is None:
            self._bytes = 0
            self._closing = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
