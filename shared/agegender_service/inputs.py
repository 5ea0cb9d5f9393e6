"""The inputs of routes: described in the OpenAPI document of a service, and checked in each request."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import mimeparse
import structlog
from agegender.errors import PROBLEM_MEDIA_TYPE, Problem, busy
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter
from starlette.concurrency import run_in_threadpool

log = structlog.get_logger(__name__)

_COMMON = Path(__file__).with_name("examples.json")
_PROBLEM = busy("The embedders have as many requests as they can hold.")
# A service without keys accepts requests without, so the first alternative is none.
_SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
DEPRECATED: dict[str, JsonValue] = {"deprecated": True}  # of a field's JSON schema
# Pages and probes may be sent any parameter; clients of the original project cannot be changed.
_EXEMPT_TAGS = frozenset({"page", "health", "original"})
_EMPTY_JSON_BYTES = 2  # `{}`, which some HTTP libraries send with every POST
_SHOWN = 100  # characters of a name in a message
_MAX_ERRORS, _MAX_ERRORS_IN_DETAIL = 50, 5

_describing = Lock()  # FastAPI fails with KeyError if two threads describe routes at once

Location = tuple[str | int, ...]


class RouteExample(BaseModel):
    """One exchange: path and query parameters, a JSON body, and the successful response."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, Any] = Field(default_factory=dict)
    request: Any = None
    answer: Any


_EXAMPLES = TypeAdapter(dict[str, RouteExample])


def route_examples(*files: Path) -> dict[str, RouteExample]:
    """Read the examples of JSON files and of the routes that all services share, by `"GET /path"`."""
    examples: dict[str, RouteExample] = {}
    for file in (_COMMON, *files):
        examples |= _EXAMPLES.validate_json(file.read_bytes())
    return examples


def complete_openapi(app: FastAPI, examples: Mapping[str, RouteExample]) -> None:
    """Add what FastAPI does not know (examples, keys, problems' type) when somebody first asks for it."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        with _describing:
            if app.openapi_schema is None:
                _complete(generated(), examples)
            return generated()

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation describes


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `"GET /path"` and the operation object for each operation of a document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a JSON body that a dependency parses.

    The document gets the models within it as components (see `complete_openapi`).
    """
    return model.model_json_schema(ref_template="#/components/schemas/{model}")


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Describe the members of a model as query parameters that a dependency parses."""
    required = model.model_json_schema().get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in body_schema(model)["properties"].items()
    ]


def _complete(document: dict[str, Any], examples: Mapping[str, RouteExample]) -> None:
    document["components"]["securitySchemes"] = _SCHEMES
    document["security"] = _SECURITY
    for name, operation in operations(document):
        for media in operation.get("requestBody", {"content": {}})["content"].values():
            for model, schema in media.get("schema", {}).pop("$defs", {}).items():
                document["components"]["schemas"].setdefault(model, schema)
        content = operation["responses"]["default"]["content"]
        media_type, problem = content.popitem()  # FastAPI writes the media type of the successful response
        if "example" in problem:  # another system's errors
            content[media_type] = problem
        else:
            content[PROBLEM_MEDIA_TYPE] = {**problem, "example": _PROBLEM.document()}
        if name in examples:
            _add_example(operation, examples[name])


def _add_example(operation: dict[str, Any], example: RouteExample) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["name"] in example.parameters:
            parameter["example"] = example.parameters[parameter["name"]]
    if example.request is not None:
        content = operation["requestBody"]["content"]
        content.get("application/json", next(iter(content.values())))["example"] = example.request
    success = next(response for status, response in operation["responses"].items() if status.startswith("2"))
    next(iter(success["content"].values()))["example"] = example.answer


@dataclass(frozen=True)
class KnownInputs:
    """The inputs of one operation according to its OpenAPI description.

    query : name → whether it may be repeated with different values.
    body : names of the JSON members; None if the operation has no body.
    """

    query: Mapping[str, bool]
    body: frozenset[str] | None = field(default=None)


def dotted(location: Location) -> str:
    """Join the parts of a pydantic error location: `embeddings.0.1`."""
    return ".".join(map(str, location))


def validation_problem(
    errors: Sequence[Mapping[str, Any]],
    *,
    members: Iterable[str] | None = None,
    field_name: Callable[[Location], str] = dotted,
) -> Problem:
    """Render pydantic's validation errors as the problem ``invalid-request`` 422.

    Parameters
    ----------
    errors : of `ValidationError.errors` or `RequestValidationError.errors`.
    members : names of the JSON body's members; an unknown member's message suggests the nearest.
    field_name : names the field of an error's location.
    """
    described = [
        {"field": field_name(error["loc"]), "message": _message(error, members)}
        for error in errors[:_MAX_ERRORS]
    ]
    shown = described[:_MAX_ERRORS_IN_DETAIL]
    detail = "; ".join(f"{error['field'] or 'body'}: {error['message']}" for error in shown)
    return Problem("invalid-request", 422, detail, errors=described)


def _message(error: Mapping[str, Any], members: Iterable[str] | None) -> str:
    location = error["loc"]
    if len(location) == 2 and location[0] == "body":  # FastAPI puts the place before the path
        location = location[1:]
    if error["type"] == "extra_forbidden" and len(location) == 1 and members:
        return f"There is no JSON member {unknown_name(str(location[0]), members)}"
    return str(error["msg"])


def unknown_input(place: str, name: str, known: Iterable[str]) -> Problem:
    """Create the problem ``invalid-request`` 422 for an input that no code reads.

    place : "query parameter", "form field", "file field" or "JSON member".
    """
    message = f"There is no {place} {unknown_name(name, known)}"
    return Problem("invalid-request", 422, message, errors=[{"field": name[:_SHOWN], "message": message}])


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return `'max_face'; did you mean 'max_faces'?`, or list the known names if none is similar."""
    shown, names = repr(name[:_SHOWN]), sorted(known)
    near = difflib.get_close_matches(name[:_SHOWN].lower(), names, n=1)
    if near:
        return f"{shown}; did you mean {near[0]!r}?"
    if len(names) == 1:
        return f"{shown}; the only accepted name is {names[0]!r}."
    return f"{shown}; accepted names are {', '.join(names)}." if names else f"{shown}; none is accepted."


def contradictory(name: str, values: Iterable[Any]) -> Problem:
    """Create the problem ``invalid-request`` 422 for an option with more than one value."""
    message = f"was sent more than once with different values ({', '.join(map(str, values))}); send it once"
    return Problem("invalid-request", 422, f"{name} {message}.", errors=[{"field": name, "message": message}])


def with_new_names(data: Any, names: Mapping[str, str]) -> Any:
    """Return a request's fields under their present names; log each old name once.

    names : old name → new name. A field that is given under both names keeps both, so validation rejects it.
    """
    if not isinstance(data, Mapping):
        return data
    renamed = dict(data)
    for old, new in names.items():
        if old in renamed and new not in renamed:
            log_deprecated_name(old, new)
            renamed[new] = renamed.pop(old)
    return renamed


@cache
def log_deprecated_name(old: str, new: str) -> None:
    """Log, once per process, that a client uses a name that the next release drops."""
    log.warning("deprecated name in a request; the next release rejects it", name=old, use=new)


def preferred_media_type(request: Request, available: Sequence[str]) -> str:
    """Return the media type that the `Accept` header prefers (RFC 9110, 12.5.1).

    available : the default first, then by descending preference. The default is returned if the header is
        missing, malformed, or accepts none of them.
    """
    try:
        preferred: str = mimeparse.best_match(available[::-1], request.headers.get("accept", ""))
    except mimeparse.MimeTypeParseException:
        preferred = ""
    return preferred or available[0]


async def reject_ignored_inputs(request: Request) -> None:
    """Reject inputs that the route would ignore; a FastAPI dependency of every route.

    Raises ``invalid-request`` 422.
    """
    inputs = await known_inputs(request)
    if inputs is None:
        return
    for name in request.query_params:
        if name not in inputs.query:
            raise unknown_input("query parameter", name, inputs.query)
        values = request.query_params.getlist(name)
        if len(set(values)) > 1 and not inputs.query[name]:
            raise contradictory(name, values)
    if inputs.body is None and _has_body(request):
        options = f"; its options are query parameters: {', '.join(inputs.query)}" if inputs.query else ""
        raise Problem("invalid-request", 422, f"{request.method} {request.url.path} takes no body{options}.")


async def known_inputs(request: Request) -> KnownInputs | None:
    """Return the inputs of a request's route; None for routes that accept anything."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or _EXEMPT_TAGS.intersection(route.tags):
        return None
    known = _known(request)
    name = f"{request.method} {route.path}"
    if name not in known:
        await run_in_threadpool(_describe, route, name, known)
    return known[name]


def members_of_body(request: Request) -> frozenset[str]:
    """Return the names of the JSON members of a request's route; empty if they are not known."""
    path = getattr(request.scope.get("route"), "path", None)
    inputs = _known(request).get(f"{request.method} {path}")
    return frozenset() if inputs is None or not inputs.body else inputs.body


def _known(request: Request) -> dict[str, KnownInputs | None]:
    """Return the inputs by `"GET /path"` of the routes that were asked until now."""
    state = request.app.state
    if not hasattr(state, "known_inputs"):
        state.known_inputs = {}
    known: dict[str, KnownInputs | None] = state.known_inputs
    return known


def _describe(route: APIRoute, name: str, known: dict[str, KnownInputs | None]) -> None:
    """Add the inputs of one route, which takes a fraction of the time that the application's document takes.

    Only what the route and its own router declare counts, not what `include_router` adds.
    """
    with _describing:
        if name not in known:  # no other request was first
            # A route that the document omits accepts anything.
            known.update({name: None, **inputs_in(get_openapi(title="", version="", routes=[route]))})


def inputs_in(document: Mapping[str, Any]) -> dict[str, KnownInputs]:
    """Return the inputs of each operation of an OpenAPI document, by `"GET /path"`."""
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
