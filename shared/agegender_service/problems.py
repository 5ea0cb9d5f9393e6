"""Every error of a service as an RFC 9457 problem document, whoever raised it."""

from typing import Any

import structlog
from agegender.errors import PROBLEM_MEDIA_TYPE, Problem, volume_problem
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from agegender_service.inputs import nearest_member
from agegender_service.requests import request_id

log = structlog.get_logger(__name__)

_SLUGS = {404: "not-found", 405: "method-not-allowed", 400: "bad-request"}


def problem_response(problem: Problem) -> JSONResponse:
    document = problem.document()
    if (identifier := request_id()) is not None:
        document["request_id"] = identifier
    return JSONResponse(
        document, status_code=problem.status, media_type=PROBLEM_MEDIA_TYPE, headers=problem.headers
    )


def add_problem_handlers(app: FastAPI) -> None:
    app.add_exception_handler(Problem, _render_problem)
    app.add_exception_handler(RequestValidationError, _render_validation_error)
    app.add_exception_handler(HTTPException, _render_http_exception)
    app.add_exception_handler(OSError, _render_os_error)
    app.add_exception_handler(Exception, _render_surprise)


async def _render_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _render_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(str(part) for part in item["loc"]), "message": _message(request, item)}
        for item in error.errors()
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors[:5])
    return problem_response(Problem("invalid-request", 422, detail, errors=errors[:50]))


def _message(request: Request, item: dict[str, Any]) -> str:
    place, *name = item["loc"]
    if item["type"] == "extra_forbidden" and place == "body" and len(name) == 1:
        near = nearest_member(request, str(name[0]))
        return f"There is no JSON member {near}" if near else str(item["msg"])
    return str(item["msg"])


async def _render_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code in (404, 405):
        detail = f"{request.method} {request.url.path} is not served here; /docs lists what is."
    response = problem_response(
        Problem(_SLUGS.get(error.status_code, "http-error"), error.status_code, detail)
    )
    if error.status_code == 405:
        response.headers["Allow"] = _methods(request) or (error.headers or {}).get("Allow", "")
    return response


def _methods(request: Request) -> str:
    """All that the path is served with, for `Allow`; Starlette tells those of the path's first route only."""
    path = getattr(request.scope.get("route"), "path", None)
    return ", ".join(sorted(method.upper() for method in request.app.openapi()["paths"].get(path, {})))


async def _render_os_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    problem = volume_problem(error)
    if problem is None:
        return await _render_surprise(request, error)
    log.error("volume not writable", path=request.url.path, reason=str(error))
    return problem_response(problem)


async def _render_surprise(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return problem_response(
        Problem("internal-error", 500, "The service failed unexpectedly; its log says why.")
    )
