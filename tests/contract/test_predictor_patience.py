"""Work of the predictor ends at its deadline, or when its client disconnects; each stage is timed once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.drawing import annotated
from agegender.heads.networks import bank_logits
from predictor import registry
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from prometheus_client import REGISTRY

from tests.support.predictor_requests import embedding, original_request, png, slug
from tests.support.serving import hang_up_once, serving, until

DROPOUT = {"uncertainty": "mc-dropout"}
ROUTES: dict[str, dict[str, Any]] = {
    "/age-gender": {"content": png()},
    "/age-gender/embeddings": {"json": embedding()},
    "/": {"json": original_request(np.array(embedding()["embeddings"], np.float32))},
}


class Held:
    """A function that waits for `go_on`, and counts its calls. Those with fewer arguments just run."""

    def __init__(self, function: Callable[..., Any], arguments: int) -> None:
        self._function = function
        self._arguments = arguments
        self.go_on = threading.Event()
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) >= self._arguments:
            self.calls += 1
            self.go_on.wait(20)
        return self._function(*arguments)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Held]]:
    made: list[Held] = []

    def hold(name: str, function: Callable[..., Any], arguments: int = 0) -> Held:
        made.append(Held(function, arguments))
        monkeypatch.setattr(name, made[-1])
        return made[-1]

    yield hold
    for one in made:
        one.go_on.set()


@pytest.fixture
def heads(held: Any) -> Held:
    made: Held = held("predictor.registry._ensemble", registry._ensemble)
    return made


@pytest.fixture
def rounds(held: Any) -> Held:
    # With a generator of masks; heads that are loaded are tried without.
    made: Held = held("agegender.heads.head.bank_logits", bank_logits, arguments=4)
    return made


@pytest.fixture
def pictures(held: Any) -> Held:
    made: Held = held("predictor.routes.age_gender.annotated", annotated)
    return made


@pytest.mark.parametrize("route", ROUTES)
def test_wait_for_the_heads_ends_with_the_deadline(heads: Held, predictor: httpx.Client, route: str) -> None:
    answer = predictor.post(route, **ROUTES[route], headers={"X-Deadline-Ms": "300"})
    assert (answer.status_code, slug(answer)) == (504, "deadline-exceeded")
    heads.go_on.set()
    assert predictor.post(route, **ROUTES[route]).status_code == 200


@pytest.mark.parametrize("route", ROUTES)
def test_wait_for_the_heads_ends_with_the_predictor_s_own_time(
    heads: Held, settings: PredictorSettings, route: str
) -> None:
    with serving(create_predictor(settings.model_copy(update={"timeout": 0.3}))) as url:
        answer = httpx.post(f"{url}{route}", **ROUTES[route], timeout=20)
        heads.go_on.set()
    assert (answer.status_code, slug(answer)) == (504, "deadline-exceeded")


@pytest.mark.parametrize("route", ["/age-gender", "/age-gender/embeddings"])
def test_wait_for_monte_carlo_dropout_ends_with_the_deadline(
    rounds: Held, predictor: httpx.Client, route: str
) -> None:
    with ThreadPoolExecutor() as clients:
        asking = [
            clients.submit(
                predictor.post, route, **ROUTES[route], params=DROPOUT, headers={"X-Deadline-Ms": "300"}
            )
            for _ in range(3)
        ]
        answers = [asked.result() for asked in asking]
    assert {(answer.status_code, slug(answer)) for answer in answers} == {(504, "deadline-exceeded")}
    rounds.go_on.set()
    assert predictor.post(route, **ROUTES[route], params=DROPOUT).status_code == 200


def test_wait_for_drawing_ends_with_the_deadline(pictures: Held, predictor: httpx.Client) -> None:
    headers = {"Accept": "image/png", "X-Deadline-Ms": "300"}
    answer = predictor.post("/age-gender", content=png(), headers=headers)
    assert (answer.status_code, slug(answer)) == (504, "deadline-exceeded")
    pictures.go_on.set()  # a service that stops waits for its threads


def hung_up(predictor: httpx.Client, route: str) -> bool:
    return f'route="{route}",status="499"' in predictor.get("/metrics").text


def test_monte_carlo_dropout_ends_with_its_round_once_the_client_hung_up(
    rounds: Held, settings: PredictorSettings
) -> None:
    passes = settings.model_copy(update={"mc_passes": 4096})
    with serving(create_predictor(passes)) as url, httpx.Client(base_url=url, timeout=20) as predictor:
        asked = {"json": embedding(), "params": DROPOUT}
        hang_up_once(lambda: rounds.calls, "the round begins", f"{url}/age-gender/embeddings", **asked)
        until(lambda: hung_up(predictor, "/age-gender/embeddings"), "the hang-up is noticed")
        rounds.go_on.set()
    assert rounds.calls == 1  # the thread was waited for


@pytest.mark.parametrize(
    ("holding", "running", "bound", "changes"),
    [
        ("heads", 1, {"threads": 1, "max_waiting_faces": 1}, {}),
        ("rounds", 1, {"max_waiting": 1}, {"params": DROPOUT}),
        ("pictures", 2, {"max_waiting": 1}, {"headers": {"Accept": "image/jpeg"}}),
    ],
)
def test_what_would_wait_beyond_the_bound_is_refused_at_once(
    request: pytest.FixtureRequest,
    settings: PredictorSettings,
    holding: str,
    running: int,
    bound: dict[str, int],
    changes: dict[str, Any],
) -> None:
    holder: Held = request.getfixturevalue(holding)
    with (
        serving(create_predictor(settings.model_copy(update=bound))) as url,
        httpx.Client(base_url=url, timeout=20) as predictor,
        ThreadPoolExecutor() as clients,
    ):
        asking = [
            clients.submit(predictor.post, "/age-gender", content=png(), **changes)
            for _ in range(running + 2)
        ]
        refused = next(as_completed(asking, 20)).result()  # the others are held
        assert (refused.status_code, slug(refused)) == (429, "busy")
        assert refused.headers["retry-after"] == "1"
        holder.go_on.set()
        statuses = sorted(asked.result().status_code for asked in asking)
    assert statuses == [200] * (running + 1) + [429]


def test_each_stage_is_observed_once_per_request(predictor: httpx.Client) -> None:
    def observed(stage: str) -> float:
        return REGISTRY.get_sample_value("predictor_stage_seconds_count", {"stage": stage}) or 0.0

    before = {stage: observed(stage) for stage in ("read", "proxy", "queue", "heads", "answer")}
    predictor.post("/age-gender", files={"image": png()}).raise_for_status()
    assert {stage: observed(stage) - count for stage, count in before.items()} == dict.fromkeys(before, 1)
