"""Reject inputs that a route would otherwise ignore: unknown names, contradicting values, unread bodies."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agegender.errors import Problem
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from agegender_service.openapi import operations

# People add parameters of their own to pages and probes; the original's clients are not ours to correct.
_EXEMPT_TAGS = frozenset({"page", "health", "original"})
_EMPTY_JSON_BYTES = 2  # `{}`, which some HTTP libraries send with every POST
_SHOWN = 100  # characters of a name


@dataclass(frozen=True)
class KnownInputs:
    """What one operation takes, by its OpenAPI description. `body` is None where it takes no body."""

    query: Mapping[str, bool]  # name → whether it may be repeated with different values
    body: frozenset[str] | None = field(default=None)


def unknown_input(place: str, name: str, known: Iterable[str]) -> Problem:
    """The problem ``invalid-request`` 422 for an input that nothing reads.

    place : "query parameter", "form field", "file field" or "JSON member".
    """
    message = unknown_name(name, known)
    return Problem(
        "invalid-request",
        422,
        f"There is no {place} {message}",
        errors=[{"field": name[:_SHOWN], "message": f"There is no {place} {message}"}],
    )


def unknown_name(name: str, known: Iterable[str]) -> str:
    """`'max_face'; did you mean 'max_faces'?`, or all known names where none is near."""
    shown, names = repr(name[:_SHOWN]), sorted(known)
    near = difflib.get_close_matches(name[:_SHOWN].lower(), names, n=1)
    if near:
        return f"{shown}; did you mean {near[0]!r}?"
    if len(names) == 1:
        return f"{shown}; the only name is {names[0]!r}."
    return f"{shown}; the names are {', '.join(names)}." if names else f"{shown}; none is taken."


def contradicting(name: str, values: Iterable[Any]) -> Problem:
    """The problem ``invalid-request`` 422 for an option that was sent more than once, and not alike."""
    message = f"was sent more than once with different values ({', '.join(map(str, values))}); send it once"
    return Problem("invalid-request", 422, f"{name} {message}.", errors=[{"field": name, "message": message}])


async def reject_ignored_inputs(request: Request) -> None:
    """FastAPI dependency of every route. Raises ``invalid-request`` 422."""
    inputs = await known_inputs(request)
    if inputs is None:
        return
    for name in request.query_params:
        if name not in inputs.query:
            raise unknown_input("query parameter", name, inputs.query)
        values = request.query_params.getlist(name)
        if len(set(values)) > 1 and not inputs.query[name]:
            raise contradicting(name, values)
    if inputs.body is None and _has_body(request):
        options = f"; its options are query parameters: {', '.join(inputs.query)}" if inputs.query else ""
        raise Problem("invalid-request", 422, f"{request.method} {request.url.path} takes no body{options}.")


async def known_inputs(request: Request) -> KnownInputs | None:
    """What the route of a request takes; None for routes that may be sent anything."""
    app = request.app
    if not hasattr(app.state, "known_inputs"):
        app.state.known_inputs = await run_in_threadpool(_all_known, app)
    return _of_route(request)


def nearest_member(request: Request, name: str) -> str:
    """For a member of a JSON body that the route does not have: what was probably meant, or an empty text."""
    inputs = _of_route(request)
    return "" if inputs is None or not inputs.body else unknown_name(name, inputs.body)


def _of_route(request: Request) -> KnownInputs | None:
    path = getattr(request.scope.get("route"), "path", None)
    known: Mapping[str, KnownInputs] = getattr(request.app.state, "known_inputs", {})
    return known.get(f"{request.method} {path}")


def _all_known(app: Any) -> dict[str, KnownInputs]:
    document = app.openapi()
    schemas = document.get("components", {}).get("schemas", {})
    return {
        name: KnownInputs(
            query={
                parameter["name"]: parameter["schema"].get("type") == "array"
                for parameter in operation.get("parameters", [])
                if parameter["in"] == "query"
            },
            body=_members(operation, schemas) if "requestBody" in operation else None,
        )
        for name, operation in operations(document)
        if not _EXEMPT_TAGS & set(operation.get("tags", []))
    }


def _members(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> frozenset[str]:
    content = operation["requestBody"]["content"]
    schema = content.get("application/json", {}).get("schema", {})
    parts = [schema, *schema.get("anyOf", [])]
    resolved = [schemas.get(part.get("$ref", "").rpartition("/")[2], part) for part in parts]
    return frozenset(name for part in resolved for name in part.get("properties", {}))


def _has_body(request: Request) -> bool:
    declared = request.headers.get("content-length", "0")
    return "transfer-encoding" in request.headers or not (
        declared.isdigit() and int(declared[:18]) <= _EMPTY_JSON_BYTES
    )
