"""Make a service's FastAPI application with the routes and error shape that all services share."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from agegender import __version__
from agegender.errors import PROBLEM_MEDIA_TYPE, Problem, not_ready
from agegender.web.requests import ObserveRequests, request_id

log = structlog.get_logger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class ProblemDocument(BaseModel):
    """RFC 9457. `type` is stable; programs may depend on it."""

    type: str
    title: str
    status: int
    detail: str


def create_app(
    *,
    name: str,
    description: str,
    lifespan: Lifespan,
    why_not_ready: Callable[[], Awaitable[str | None]],
    info: Callable[[], Awaitable[dict[str, Any]]],
    warnings: Callable[[], list[str]] = list,
) -> FastAPI:
    """The application, with `/health/live`, `/health/ready`, `/metrics`, `/info` and `/docs`.

    Parameters
    ----------
    why_not_ready : gives the reason for which the service cannot work, None where it can.
    info : what `/info` tells beside name and version: space, models, limits.
    warnings : what is wrong though the service can work; `/health/ready` tells it.
    """
    app = FastAPI(
        title=name,
        description=description,
        version=__version__,
        lifespan=lifespan,
        responses={"default": {"model": ProblemDocument, "description": "RFC 9457 problem document"}},
    )
    app.add_middleware(ObserveRequests)
    app.add_exception_handler(Problem, _render_problem)
    app.add_exception_handler(RequestValidationError, _render_validation_error)
    app.add_exception_handler(HTTPException, _render_http_exception)
    app.add_exception_handler(Exception, _render_surprise)

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

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=Response)
    def metrics() -> Response:  # in a thread: the trainer's ask Redis
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/info", tags=["health"], summary="Version, space, models, limits")
    async def about() -> dict[str, Any]:
        return {"service": name, "version": __version__, **await info()}

    return app


def _problem_response(problem: Problem) -> JSONResponse:
    document = problem.document()
    if (identifier := request_id()) is not None:
        document["request_id"] = identifier
    return JSONResponse(
        document, status_code=problem.status, media_type=PROBLEM_MEDIA_TYPE, headers=problem.headers
    )


async def _render_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _problem_response(error)


async def _render_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(str(part) for part in item["loc"]), "message": item["msg"]}
        for item in error.errors()
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors[:5])
    return _problem_response(Problem("invalid-request", 422, detail, errors=errors[:50]))


async def _render_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    slug = {404: "not-found", 405: "method-not-allowed", 400: "bad-request"}.get(
        error.status_code, "http-error"
    )
    detail = error.detail
    if error.status_code in (404, 405):
        detail = f"{request.method} {request.url.path} is not served here; /docs lists what is."
    return _problem_response(Problem(slug, error.status_code, detail))


async def _render_surprise(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return _problem_response(
        Problem("internal-error", 500, "The service failed unexpectedly; its log says why.")
    )
