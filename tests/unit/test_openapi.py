"""The HTTP interfaces as OpenAPI documents: complete with examples, and never changed by accident."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from agegender_service.inputs import operations, route_examples
from jsonschema_rs import Draft202012Validator

from tools.openapi import FOLDER, applications, openapi_text
from tools.stack import ROOT

APPLICATIONS = applications()


@pytest.mark.parametrize("name", APPLICATIONS)
def test_interface_changes_only_on_purpose(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == openapi_text(APPLICATIONS[name]), (
        f"The HTTP interface of {name} differs from docs/openapi/{name}.json. "
        "Where that is meant, run `python -m tools.openapi` and commit what it writes."
    )


def cases() -> list[Any]:
    """Return each operation of the committed documents, which takes less time than to generate them."""
    documents = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in APPLICATIONS}
    return [
        pytest.param(document, operation, id=f"{service} {route}")
        for service, document in documents.items()
        for route, operation in operations(document)
    ]


@pytest.mark.parametrize(("document", "operation"), cases())
def test_every_route_has_an_example_of_its_schema(
    document: dict[str, Any], operation: dict[str, Any]
) -> None:
    done = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
    answer = next(iter(done["content"].values()))
    assert answer.get("example") is not None, "add it to the service's examples.json"
    (problem,) = operation["responses"]["default"]["content"].values()
    media_types = [answer, problem]
    body = operation.get("requestBody", {"content": {}})["content"]
    if "application/json" in body:
        assert "example" in body["application/json"]
        media_types.append(body["application/json"])
    for parameter in operation.get("parameters", []):
        assert "example" in parameter or not parameter.get("required")
        if "example" in parameter:
            media_types.append(parameter)
    for media in media_types:
        schema = {**media.get("schema", {}), "components": document["components"]}
        Draft202012Validator(schema).validate(media["example"])


def test_examples_of_routes_that_are_gone_are_gone() -> None:
    routes = {route for app in APPLICATIONS.values() for route, _ in operations(app.openapi())}
    files = sorted((ROOT / "services").glob("*/*/**/examples.json"))
    assert len(files) == len(APPLICATIONS)
    assert set(route_examples(*files)) <= routes


def test_document_is_generated_once_for_first_requests_that_come_together() -> None:
    """FastAPI fails with KeyError, and the requests with 500, if two threads generate it."""
    app = applications()["predictor"]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            documents = [future.result() for future in [pool.submit(app.openapi) for _ in range(4)]]
    finally:
        sys.setswitchinterval(interval)
    assert all(document is documents[0] for document in documents)
