"""Render every error of a service: as an RFC 9457 problem document, or in another system's wire format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from agegender.errors import PROBLEM_MEDIA_TYPE, Problem, volume_problem
from agegender.keys import ApiKey
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Scope

from agegender_service.inputs import members_of_body, validation_problem
from agegender_service.observability import request_id

log = structlog.get_logger(__name__)

_SLUGS = {404: "not-found", 405: "method-not-allowed", 400: "bad-request"}


@dataclass(frozen=True)
class WireFormat:
    """Conventions of another system, for requests whose path is `prefix` or below it.

    Parameters
    ----------
    prefix : path, such as ``/rekognition``.
    error_response : renders a problem as the system's clients expect it.
    key_of : returns the key of a request whose credentials are not a key, such as a signature. None if there
        are none of this form. Raises `Problem` if they are wrong.
    """

    prefix: str
    error_response: Callable[[Problem], Response]
    key_of: Callable[[Scope], ApiKey | None] | None = None


def wire_format_of(scope: Scope) -> WireFormat | None:
    """Return the wire format of a request's path, or None for the service's own."""
    formats: Sequence[WireFormat] = scope["app"].state.wire_formats if "app" in scope else ()
    path = scope["path"]
    return next((one for one in formats if path == one.prefix or path.startswith(f"{one.prefix}/")), None)


def problem_response(problem: Problem, scope: Scope) -> Response:
    """Render a problem in the wire format of its request, by default as a document with the request's id."""
    if (wire_format := wire_format_of(scope)) is not None:
        return wire_format.error_response(problem)
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
    return problem_response(error.as_value(), request.scope)


async def _render_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = validation_problem(error.errors(), members=members_of_body(request))
    return problem_response(problem, request.scope)


async def _render_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code in (404, 405):
        detail = f"{request.method} {request.url.path} does not exist; /docs lists all routes."
    problem = Problem(_SLUGS.get(error.status_code, "http-error"), error.status_code, detail)
    response = problem_response(problem, request.scope)
    if error.status_code == 405:
        allowed = await run_in_threadpool(_methods, request)
        response.headers["Allow"] = allowed or (error.headers or {}).get("Allow", "")
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
    return problem_response(problem, request.scope)


async def _render_unexpected_error(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return problem_response(
        Problem("internal-error", 500, "Unexpected error; see the service's log for this request id."),
        request.scope,
    )
