"""What FastAPI cannot know of a service's OpenAPI document: examples, keys, the media type of problems."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agegender.errors import PROBLEM_MEDIA_TYPE, busy
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

_COMMON = Path(__file__).with_name("examples.json")
_PROBLEM = busy("The embedders have as many requests as they can hold.")
# A service without keys takes requests without, so the first choice is none.
_SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


class RouteExample(BaseModel):
    """One exchange: the path's and query's parameters, a JSON body, and the answer where all goes well."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, Any] = Field(default_factory=dict)
    request: Any = None
    answer: Any


_EXAMPLES = TypeAdapter(dict[str, RouteExample])


def route_examples(*files: Path) -> dict[str, RouteExample]:
    """Those of JSON files and those of the routes that all services share, by `"GET /path"`."""
    examples: dict[str, RouteExample] = {}
    for file in (_COMMON, *files):
        examples |= _EXAMPLES.validate_json(file.read_bytes())
    return examples


def complete_openapi(app: FastAPI, examples: Mapping[str, RouteExample]) -> None:
    """Complete the document when it is asked for."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generated(), examples)
        return generated()

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """`"GET /path"` and the operation, for each."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def _complete(document: dict[str, Any], examples: Mapping[str, RouteExample]) -> None:
    document["components"]["securitySchemes"] = _SCHEMES
    document["security"] = _SECURITY
    for name, operation in operations(document):
        content = operation["responses"]["default"]["content"]
        _, problem = content.popitem()  # FastAPI names the media type of the good answer
        content[PROBLEM_MEDIA_TYPE] = {**problem, "example": _PROBLEM.document()}
        if name in examples:
            _add_example(operation, examples[name])


def _add_example(operation: dict[str, Any], example: RouteExample) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["name"] in example.parameters:
            parameter["example"] = example.parameters[parameter["name"]]
    if example.request is not None:
        operation["requestBody"]["content"]["application/json"]["example"] = example.request
    done = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
    next(iter(done["content"].values()))["example"] = example.answer
