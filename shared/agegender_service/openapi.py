"""Complete a service's OpenAPI document with what FastAPI does not know: examples, keys, problems' type."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from agegender.errors import PROBLEM_MEDIA_TYPE, busy
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

_COMMON = Path(__file__).with_name("examples.json")
_PROBLEM = busy("The embedders have as many requests as they can hold.")
# A service without keys accepts requests without, so the first alternative is none.
_SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


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
    """Complete the document when it is first requested, by several threads or not."""
    generated = app.openapi
    lock = Lock()  # FastAPI fails with KeyError if two threads generate it at once

    def openapi() -> dict[str, Any]:
        with lock:
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
