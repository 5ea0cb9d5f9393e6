"""The HTTP interfaces as OpenAPI documents: complete with examples, and never changed by accident."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from agegender_service import inputs
from agegender_service.inputs import inputs_in, operations, route_examples
from fastapi.openapi.utils import get_openapi
from fastapi.testclient import TestClient
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


@pytest.fixture
def threads_that_change_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("threads_that_change_often")
def test_document_is_generated_once_for_first_requests_that_come_together() -> None:
    """FastAPI fails with KeyError, and the requests with 500, if two threads generate it."""
    app = applications()["predictor"]
    with ThreadPoolExecutor(4) as pool:
        documents = [future.result() for future in [pool.submit(app.openapi) for _ in range(4)]]
    assert all(document is documents[0] for document in documents)


@pytest.mark.usefixtures("threads_that_change_often")
async def test_route_is_described_once_for_first_requests_that_come_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described: list[Any] = []

    def counted(**options: Any) -> dict[str, Any]:
        described.extend(options["routes"])
        return get_openapi(**options)

    monkeypatch.setattr(inputs, "get_openapi", counted)
    app = applications()["predictor"]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client:
        asked = [client.get(path, params={"wrong": 1}) for _ in range(10) for path in ("/models", "/v2")]
        asked += [client.get("/openapi.json") for _ in range(4)]
        answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [422] * 20 + [200] * 4
    assert len(described) == 2


@pytest.mark.parametrize("name", ["predictor", "trainer"])
def test_route_described_by_itself_has_the_inputs_of_the_document(name: str) -> None:
    document = json.loads((FOLDER / f"{name}.json").read_text())
    app = applications()[name]
    client = TestClient(app, raise_server_exceptions=False)
    for route, operation in operations(document):
        if "page" not in operation["tags"] and not route.endswith("/events"):
            method, path = route.split(" ")
            client.request(method, re.sub(r"{\w+}", "unknown", path))
    known = app.state.known_inputs
    assert len(known) > 10
    assert known == {route: one for route, one in inputs_in(document).items() if route in known}
