"""Render every error of a service as an RFC 9457 problem document."""

import structlog
from agegender.errors import PROBLEM_MEDIA_TYPE, Problem, volume_problem
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from agegender_service.inputs import members_of_body, validation_problem
from agegender_service.observability import request_id

log = structlog.get_logger(__name__)

_SLUGS = {404: "not-found", 405: "method-not-allowed", 400: "bad-request"}


def problem_response(problem: Problem) -> JSONResponse:
    """Render a problem, with the request's id."""
    document = problem.document()
    if (identifier := request_id()) is not None:
        document["request_id"] = identifier
    return JSONResponse(
        document, status_code=problem.status, media_type=PROBLEM_MEDIA_TYPE, headers=problem.headers
    )


def add_problem_handlers(app: FastAPI) -> None:
    """Register a handler for each kind of exception."""
    app.add_exception_handler(Problem, _render_problem)
    app.add_exception_handler(RequestValidationError, _render_validation_error)
    app.add_exception_handler(HTTPException, _render_http_exception)
    app.add_exception_handler(OSError, _render_os_error)
    app.add_exception_handler(Exception, _render_unexpected_error)


async def _render_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _render_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(validation_problem(error.errors(), members=members_of_body(request)))


async def _render_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code in (404, 405):
        detail = f"{request.method} {request.url.path} does not exist; /docs lists all routes."
    response = problem_response(
        Problem(_SLUGS.get(error.status_code, "http-error"), error.status_code, detail)
    )
    if error.status_code == 405:
        response.headers["Allow"] = _methods(request) or (error.headers or {}).get("Allow", "")
    return response


def _methods(request: Request) -> str:
    """List the path's methods for `Allow`; Starlette lists those of the path's first route only."""
    path = getattr(request.scope.get("route"), "path", None)
    return ", ".join(sorted(method.upper() for method in request.app.openapi()["paths"].get(path, {})))


async def _render_os_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    problem = volume_problem(error)
    if problem is None:
        return await _render_unexpected_error(request, error)
    log.error("volume not writable", path=request.url.path, reason=str(error))
    return problem_response(problem)


async def _render_unexpected_error(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return problem_response(
        Problem("internal-error", 500, "Unexpected error; see the service's log for this request id.")
    )
