"""The client retries when a service asks for it, gives up in time, and never acts twice."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from agegender.errors import Problem
from agegender.heads.head import Task
from agegender_client import AsyncClient, Client, ClientSettings
from fastapi import Response
from fastapi.responses import StreamingResponse

from tests.support.service_double import Service, json_answer
from tests.support.serving import serving

MODELS: dict[str, list[str]] = {"models": [], "warnings": []}
EXPERIMENT = {
    "id": "e1",
    "state": "running",
    "created": "2026-11-01T00:00:00Z",
    "task": "age",
    "datasets": ["Adience"],
    "space": {"id": "human-2", "dimension": 512},
    "folds": [{"fold": 0, "state": "running", "epoch": 3, "epochs": 30, "news": "kept"}],
}


def busy(retry_after: int | None) -> Callable[[], Response]:
    problem = Problem("busy", 429, "full")
    return json_answer(
        problem.document(), 429, **({} if retry_after is None else {"Retry-After": str(retry_after)})
    )


def cut_off() -> Response:
    async def half() -> AsyncIterator[bytes]:
        yield b'{"models": '
        raise ConnectionResetError

    return StreamingResponse(half(), headers={"Content-Length": "1000"})


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with serving(service.app()) as url, Client(settings(url)) as client:
        yield client


def settings(url: str, **changes: Any) -> ClientSettings:
    return ClientSettings(predictor_url=url, trainer_url=url, proxy_url=url, **{"patience": 5, **changes})


@contextmanager
def problem(slug: str) -> Iterator[None]:
    with pytest.raises(Problem) as raised:
        yield
    assert raised.value.slug == slug


def test_busy_service_is_asked_again_after_its_retry_after(service: Service, client: Client) -> None:
    service.will_answer(busy(1), MODELS)
    started = time.monotonic()
    assert client.models().models == []
    assert time.monotonic() - started >= 1
    assert len(service.requests) == 2


def test_date_to_come_again_is_taken_as_well(service: Service, client: Client) -> None:
    past, later = "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 2199 23:59:59 GMT"
    full = Problem("busy", 429, "full").document()
    service.will_answer(
        json_answer(full, 429, **{"Retry-After": past}),
        json_answer(full, 429, **{"Retry-After": later}),
    )
    with problem("busy"):
        client.models()
    assert len(service.requests) == 2  # at once after the first; the second is beyond its patience


def test_pause_beyond_the_client_s_patience_is_not_waited_for(service: Service, client: Client) -> None:
    service.will_answer(busy(60))
    started = time.monotonic()
    with problem("busy"):
        client.models()
    assert time.monotonic() - started < 3


def test_busy_without_a_time_and_other_problems_are_raised_at_once(service: Service, client: Client) -> None:
    service.will_answer(
        busy(None), json_answer(Problem("no-head", 409, "none", spaces=["a"]).document(), 409)
    )
    with problem("busy"):
        client.models()
    with pytest.raises(Problem) as raised:
        client.models()
    assert (raised.value.slug, raised.value.status, raised.value.extra) == ("no-head", 409, {"spaces": ["a"]})
    assert len(service.requests) == 2


def test_attempts_end(service: Service) -> None:
    with serving(service.app()) as url, Client(settings(url, attempts=3)) as client:
        service.will_answer(*[busy(0)] * 5)
        with problem("busy"):
            client.models()
    assert len(service.requests) == 3


def test_broken_answer_to_a_reading_request_is_fetched_again(service: Service, client: Client) -> None:
    service.will_answer(cut_off, MODELS)
    assert client.models().warnings == []


def test_broken_answer_to_an_acting_request_is_not_sent_again(service: Service, client: Client) -> None:
    service.will_answer(cut_off)
    with problem("interrupted"):
        client.roll_back(Task.AGE)
    assert len(service.requests) == 1


def test_creation_sent_again_carries_the_same_key(service: Service, client: Client) -> None:
    service.will_answer(cut_off, EXPERIMENT, EXPERIMENT)
    client.create_experiment({"dataset": "Adience", "seeds": None})
    client.create_experiment({"dataset": "Adience"})
    keys = [headers["idempotency-key"] for _, _, headers, _ in service.requests]
    assert keys[0] == keys[1] != keys[2]
    assert json.loads(service.requests[0][3]) == {"dataset": "Adience"}


def test_answer_that_is_no_problem_document_is_a_problem_too(service: Service, client: Client) -> None:
    service.will_answer(lambda: Response("<html>", 502))
    with problem("http-error"):
        client.models()


def test_service_that_is_gone_states_how_to_start_it() -> None:
    with Client(settings("http://127.0.0.1:9")) as client, pytest.raises(Problem, match="make up"):
        client.models()


def test_events_are_yielded_until_the_stream_ends(service: Service, client: Client) -> None:
    events = "".join(
        f"data: {json.dumps({**EXPERIMENT, 'state': state})}\n\n" for state in ("running", "finished")
    )
    service.will_answer(lambda: Response(": hello\n\n" + events, media_type="text/event-stream"))
    received = list(client.watch("e1"))
    assert [experiment.state for experiment in received] == ["running", "finished"]
    assert received[-1].ended and not received[0].ended
    service.will_answer(json_answer(Problem("not-found", 404, "gone").document(), 404))
    with problem("not-found"):
        list(client.watch("e2"))


def test_images_travel_as_multipart_and_options_as_query(service: Service, client: Client) -> None:
    service.will_answer({"space": EXPERIMENT["space"], "models": {}, "images": [], "timings": {}})
    client.predict([b"one", b"two"], coverage=0.5, max_faces=None)
    ((method, path, headers, body),) = service.requests
    assert (method, path) == ("POST", "/age-gender")
    assert headers["content-type"].startswith("multipart/form-data") and body.count(b' name="image"') == 2


async def test_async_client_asks_and_retries_alike(service: Service) -> None:
    service.will_answer(busy(0), MODELS, EXPERIMENT)
    with serving(service.app()) as url:
        async with AsyncClient(settings(url)) as client:
            assert (await client.models()).models == []
            assert (await client.experiment("e1")).folds[0].epoch == 3
            stream = f"data: {json.dumps({**EXPERIMENT, 'state': 'finished'})}\n\n"
            service.will_answer(lambda: Response(stream, media_type="text/event-stream"))
            assert [experiment.id async for experiment in client.watch("e1")] == ["e1"]


def test_both_clients_have_the_same_methods() -> None:
    def public(of: type) -> set[str]:
        return {name for name in vars(of) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
