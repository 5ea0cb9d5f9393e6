"""Watching a run lasts until it has ended, across broken connections and restarts of the trainer."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from agegender.errors import Problem
from agegender_client import AsyncClient, Client, ClientSettings, async_transport, transport
from fastapi import Response
from fastapi.responses import StreamingResponse

from tests.support.command_line import EXPERIMENT, SPACE, Run, command_line, events
from tests.support.service_double import Service, json_answer
from tests.support.serving import free_port, serving

RUNNING = {**EXPERIMENT, "state": "running", "folds": [{"fold": 0, "state": "running", "epoch": 1}]}
LATER = {**EXPERIMENT, "state": "running", "folds": [{"fold": 0, "state": "running", "epoch": 2}]}
RESTARTING = json_answer(Problem("not-ready", 503, "starting").document(), 503)
Watching = Callable[[str, str, ClientSettings], list[Any]]


def breaking(*states: dict[str, Any], silent: float = 0) -> Callable[[], Response]:
    """Return a handler that sends states, then nothing for a while, and breaks the connection."""

    async def half() -> AsyncIterator[bytes]:
        for state in states:
            yield f"data: {json.dumps(state)}\n\n".encode()
        await asyncio.sleep(silent)
        raise ConnectionResetError

    return lambda: StreamingResponse(half(), media_type="text/event-stream")


def blocking(method: str, name: str, settings: ClientSettings) -> list[Any]:
    with Client(settings) as client:
        return list(getattr(client, method)(name))


def with_asyncio(method: str, name: str, settings: ClientSettings) -> list[Any]:
    async def watched() -> list[Any]:
        async with AsyncClient(settings) as client:
            return [state async for state in getattr(client, method)(name)]

    return asyncio.run(watched())


@pytest.fixture(params=[blocking, with_asyncio], ids=["Client", "AsyncClient"])
def watching(request: pytest.FixtureRequest) -> Watching:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with serving(service.app()) as url:
        yield url


def settings(url: str) -> ClientSettings:
    return ClientSettings(trainer_url=url)


def waiting(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Set the constants of both clients."""
    for module in (transport, async_transport):
        for name, value in seconds.items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize(
    "early",
    [breaking(RUNNING), events(RUNNING), breaking(RUNNING, silent=30)],
    ids=["broken", "ended", "silent"],
)
def test_stream_that_stops_early_is_opened_again_without_repeating_a_state(
    service: Service, url: str, watching: Watching, early: Callable[[], Response],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    waiting(monkeypatch, SILENCE_SECONDS=0.5)
    service.will_answer(early, RESTARTING, events(), events(RUNNING, LATER, EXPERIMENT))
    states = watching("watch", "e1", settings(url))
    assert [(one.state, one.folds[0].epoch) for one in states] == [
        ("running", 1),
        ("running", 2),
        ("finished", 7),
    ]
    assert {asked[1] for asked in service.requests} == {"/experiments/e1/events"}


def test_run_that_has_ended_is_not_asked_about_again(service: Service, url: str, watching: Watching) -> None:
    service.will_answer(breaking(RUNNING, EXPERIMENT))
    assert [one.state for one in watching("watch", "e1", settings(url))] == ["running", "finished"]
    assert len(service.requests) == 1


def test_each_extraction_of_a_data_set_is_watched_to_its_end(
    service: Service, url: str, watching: Watching
) -> None:
    def extraction(image_set: str, state: str) -> dict[str, Any]:
        return {"id": image_set, "dataset": "six", "space": SPACE, "image_set": image_set, "state": state}

    done, begun, ended = (
        extraction("faces", "finished"), extraction("aligned", "running"), extraction("aligned", "finished")
    )  # fmt: skip
    service.will_answer(breaking(done), events(done, begun), events(done, ended), events())
    states = watching("watch_extraction", "six", settings(url))
    assert [(one.image_set, one.state) for one in states] == [
        ("faces", "finished"), ("aligned", "running"), ("aligned", "finished"),
    ]  # fmt: skip
    assert watching("watch_extraction", "six", settings(url)) == []  # a data set without extractions


def test_trainer_that_stays_away_ends_the_watch_in_time(
    service: Service, url: str, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(monkeypatch, RECONNECT_SECONDS=1)
    service.will_answer(breaking(RUNNING), *[RESTARTING] * 20)
    started = time.monotonic()
    with pytest.raises(Problem, match=r"No state has arrived for .* The run continues") as raised:
        watching("watch", "e1", settings(url))
    assert (raised.value.slug, raised.value.status) == ("interrupted", 503)
    assert len(service.requests) >= 3 and time.monotonic() - started < 5


def test_production_waits_five_minutes_and_takes_a_minute_of_silence_as_a_break() -> None:
    assert (transport.RECONNECT_SECONDS, transport.SILENCE_SECONDS) == (300, 60)


def test_first_answer_that_is_a_problem_is_raised_at_once(
    service: Service, url: str, watching: Watching
) -> None:
    service.will_answer(RESTARTING)
    with pytest.raises(Problem, match="starting"):
        watching("watch", "e1", settings(url))
    service.will_answer(json_answer(Problem("busy", 429, "full").document(), 429, **{"Retry-After": "0"}))
    service.will_answer(events(EXPERIMENT))
    assert len(watching("watch", "e1", settings(url))) == 1  # it asked for another attempt
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Problem, match="cannot be reached"):
            watching("watch", "e1", settings(f"http://127.0.0.1:{taken.getsockname()[1]}"))


def test_run_that_is_deleted_meanwhile_is_reported(service: Service, url: str, watching: Watching) -> None:
    gone = Problem("not-found", 404, "There is no experiment named 'e1'.")
    service.will_answer(events(RUNNING), json_answer(gone.document(), 404))
    with pytest.raises(Problem, match="no experiment"):
        watching("watch", "e1", settings(url))


def test_training_survives_a_restart_of_the_trainer_and_is_then_judged(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    run = command_line(monkeypatch, capsys, trainer=f"http://127.0.0.1:{port}")
    evaluation = {"id": "evaluation-1", "state": "finished", "dataset": "ours", "space": SPACE}
    report = lambda: Response("# Report\n\n## Cross-validation: age\n\nx\n\n## Here\n\n6.4\n")  # noqa: E731
    service.will_answer(RUNNING, breaking(RUNNING), events(RUNNING, EXPERIMENT), report)
    service.will_answer(evaluation, breaking(evaluation), report)
    with serving(service.app(), port):
        code, out, _ = run("train", "Adience", "--test", "ours")
    assert code == 0 and "6.4" in out
    assert [method for method, path, *_ in service.requests if path == "/evaluations"] == ["POST"]


@pytest.mark.parametrize("command", ["watch", "resume", "promote"])
def test_command_that_gives_up_names_the_command_that_watches_again(
    service: Service, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:  # fmt: skip
    waiting(monkeypatch, RECONNECT_SECONDS=0.5)
    run: Run = command_line(monkeypatch, capsys, trainer=url)
    before: dict[str, list[Any]] = {"watch": [], "resume": [RUNNING], "promote": [[], {"age": "v1"}]}
    service.will_answer(*before[command], events(RUNNING), *[RESTARTING] * 20)
    code, _, err = run(command, "e1")
    assert code == 3 and "The run continues on the trainer" in err and "agegender watch e1" in err
    assert "agegender resume" not in err
