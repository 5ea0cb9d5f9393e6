"""Make a service's FastAPI application with the routes and error shape that all services share."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from agegender import __version__
from agegender.errors import not_ready
from agegender.keys import Scope
from fastapi import Depends, FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from agegender_service.access import RequireKey
from agegender_service.bodies import SmallBodies
from agegender_service.counts import CallerCounts
from agegender_service.documentation import add_documentation
from agegender_service.inputs import reject_ignored_inputs
from agegender_service.openapi import complete_openapi, route_examples
from agegender_service.origins import RefuseForeignPages
from agegender_service.problems import add_problem_handlers
from agegender_service.rates import LimitRate
from agegender_service.requests import ObserveRequests
from agegender_service.security_headers import AddSecurityHeaders
from agegender_service.settings import ServiceSettings

_BODY_SECONDS = 30.0

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class ProblemDocument(BaseModel):
    """RFC 9457. `type` is stable; programs may depend on it."""

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
    examples: Path | None = None,
    warnings: Callable[[], list[str]] = list,
    small_bodies: int | None = None,
) -> FastAPI:
    """The application, with `/health/live`, `/health/ready`, `/metrics`, `/info` and `/docs`.

    Parameters
    ----------
    scope : what a key needs for every route that is not open (`agegender_service.access.OPEN_PATHS`).
    why_not_ready : gives the reason for which the service cannot work, None where it can.
    info : what `/info` tells beside name and version: space, models, limits.
    examples : a file for `agegender_service.openapi.route_examples`.
    warnings : what is wrong though the service can work; `/health/ready` tells it.
    small_bodies : the most bytes of any body; None where the routes bound what they read themselves.
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
    _add_guards(app, settings, name, scope, small_bodies)
    add_problem_handlers(app)
    add_documentation(app)
    complete_openapi(app, route_examples(*([examples] if examples else [])))

    @app.get("/health/live", tags=["health"], summary="The process runs")
    @app.get("/v2/health/live", include_in_schema=False)
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/health/ready", tags=["health"], summary="The service can work; 503 and the reason until then")
    @app.get("/v2/health/ready", include_in_schema=False)
    async def ready() -> dict[str, bool | list[str]]:
        reason = await why_not_ready()
        if reason is not None:
            raise not_ready(reason)
        told = warnings()
        return {"ready": True, "warnings": told} if told else {"ready": True}

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=PlainTextResponse)
    def metrics() -> Response:  # in a thread: the trainer's ask Redis
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/info", tags=["health"], summary="Version, space, models, limits")
    async def about() -> dict[str, Any]:
        return {"service": name, "version": __version__, **await info()}

    return app


def _add_guards(
    app: FastAPI, settings: ServiceSettings, name: str, scope: Scope, small_bodies: int | None
) -> None:
    """What a request passes before it comes to a route. Starlette runs first what was added last."""
    keys_needed = bool(settings.api_keys)
    if small_bodies is not None:
        app.add_middleware(SmallBodies, max_bytes=small_bodies, seconds=_BODY_SECONDS)

    def counts(limit: str) -> CallerCounts:
        return CallerCounts(name, limit, settings.redis_url)

    if settings.rate_limit is not None:
        app.add_middleware(LimitRate, counts=counts(settings.rate_limit))
    app.add_middleware(
        RequireKey,
        keys=settings.known_keys,
        keys_needed=keys_needed,
        scope=scope,
        strangers=counts(settings.wrong_key_limit) if keys_needed and settings.wrong_key_limit else None,
    )
    if not keys_needed:
        app.add_middleware(RefuseForeignPages, hosts=settings.allowed_hosts, origins=settings.cors_origins)
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
