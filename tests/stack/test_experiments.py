"""Experiments through HTTP, a real Redis and real RQ workers; and what is left of them after kills."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.heads.checkpoints import heads_directory, load_head, read_current
from agegender.heads.head import Task
from made_faces import SPACE
from recovery import recovery_seconds
from redis_server import redis_server
from serving import free_port, until
from trainer_processes import ONE_FOLD, REQUEST, Trainer, running_trainer

TWO_FOLDS = {**ONE_FOLD, "folds": [0, 1]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    with running_trainer(tmp_path_factory.mktemp("trainer")) as trainer:
        yield trainer


@pytest.fixture
def trainer(running: Trainer) -> Iterator[Trainer]:
    """Without a worker at first, as every test leaves it."""
    yield running
    for worker in running.workers:
        running.kill(worker)


def test_experiment_runs_reports_and_is_promoted(trainer: Trainer) -> None:
    trainer.start("trainer.worker")
    experiment = trainer.create(REQUEST, **{"Idempotency-Key": "once"})
    assert trainer.create(REQUEST, **{"Idempotency-Key": "once"}) == experiment
    early = httpx.post(f"{trainer.url}/experiments/{experiment}/promote")
    assert early.status_code == 409
    with httpx.stream("GET", f"{trainer.url}/experiments/{experiment}/events", timeout=120) as told:
        events = [json.loads(line[5:]) for line in told.iter_lines() if line.startswith("data:")]
    assert events[-1]["state"] == "finished"
    assert len({json.dumps(event) for event in events}) == len(events) > 3

    figures = trainer.figures(experiment)
    for task in ("age", "gender"):
        rows = figures["tables"][task]
        assert [row["fold"] for row in rows] == ["0", "1", "2", "3", "4", "mean"]
        assert rows[-1]["test"] > rows[-1]["floor"]
    assert abs(figures["out_of_fold"]["age"]["coverage"] - 0.9) < 0.05
    markdown = httpx.get(f"{trainer.url}/experiments/{experiment}/report?format=md").text
    assert "| left-out fold | train | val | test |" in markdown
    html = httpx.get(f"{trainer.url}/experiments/{experiment}/report", headers={"Accept": "text/html"}).text
    assert html.count("<svg") == 4

    versions = httpx.post(f"{trainer.url}/experiments/{experiment}/promote", timeout=60).json()
    for task in Task:
        served = heads_directory(trainer.data_dir / "models", task, SPACE)
        current = read_current(served)
        assert current is not None and current.version == versions[task.value]
        head = load_head(served / current.version)
        assert head.manifest.members == 10
        assert head.manifest.card["data"]["faces"] == 600
    assert httpx.delete(f"{trainer.url}/experiments/{experiment}").status_code == 200
    assert httpx.get(f"{trainer.url}/experiments/{experiment}").status_code == 404


def test_one_two_and_four_workers_give_the_same_report(trainer: Trainer) -> None:
    request = {**REQUEST, "folds": [0, 1, 2, 3]}
    figures = []
    for workers in (1, 2, 4):
        while len(trainer.workers) < workers:
            trainer.start("trainer.worker")
        experiment = trainer.create(request)
        folds = trainer.wait(experiment)["folds"]
        took = {fold["worker"] for fold in folds}
        assert len(took) == 1 if workers == 1 else len(took) > 1
        figures.append(trainer.figures(experiment))
    assert figures[0] == figures[1] == figures[2]


def test_number_of_workers_and_a_killed_worker_change_nothing(trainer: Trainer) -> None:
    first = trainer.start("trainer.worker")
    undisturbed = trainer.create(TWO_FOLDS)
    trainer.wait(undisturbed)

    killed = trainer.create(TWO_FOLDS)
    trainer.wait_for_epoch(killed, 40)
    trainer.kill(first)
    died = time.monotonic()
    second, third = trainer.start("trainer.worker"), trainer.start("trainer.worker")
    attempts = until_attempts(trainer, killed)
    assert time.monotonic() - died < recovery_seconds()
    assert attempts == 2
    status = trainer.wait(killed)
    assert trainer.figures(killed) == trainer.figures(undisturbed)
    assert sorted(fold["attempts"] for fold in status["folds"]) == [1, 2]
    del second, third


def until_attempts(trainer: Trainer, experiment: str) -> int:
    def attempts() -> int:
        return max(int(fold["attempts"]) for fold in trainer.status(experiment)["folds"])

    until(lambda: attempts() > 1, "a worker takes the fold over", 240)
    return attempts()


def test_redis_killed_and_back_from_its_log_loses_nothing(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    with ExitStack() as stack:
        port = free_port()
        options = ("--appendonly", "yes", "--appendfsync", "always")
        server = stack.enter_context(redis_server(tmp_path, *options, port=port))
        trainer = Trainer(tmp_path, server.url, free_port())
        stack.callback(trainer.stop)
        trainer.start_api()
        worker = trainer.start("trainer.worker")
        experiment = trainer.create(ONE_FOLD)
        trainer.wait_for_epoch(experiment, 40)
        server.process.kill()
        server.process.wait(10)
        time.sleep(2)
        again = stack.enter_context(redis_server(tmp_path, *options, port=port))

        def ended() -> bool:
            if worker.poll() is not None:  # a supervisor would start it again
                trainer.start("trainer.worker")
                return True
            return bool(trainer.status(experiment)["state"] == "finished")

        until(ended, "the worker goes on, or ends and is started again", 240)
        trainer.wait(experiment, 240)
        assert trainer.figures(experiment) == undisturbed
        del again


def test_killed_api_and_emptied_redis_lose_nothing(trainer: Trainer, undisturbed: dict[str, Any]) -> None:
    import redis

    assert trainer.api is not None
    trainer.start("trainer.worker")
    experiment = trainer.create(ONE_FOLD)
    trainer.wait_for_epoch(experiment, 20)
    trainer.kill(trainer.api)
    redis.Redis.from_url(trainer.environment["REDIS_URL"]).flushall()
    trainer.start_api()
    trainer.wait(experiment)
    assert trainer.figures(experiment) == undisturbed


def test_cancelled_experiment_stops_and_goes_on_when_resumed(trainer: Trainer) -> None:
    trainer.start("trainer.worker")
    experiment = trainer.create(ONE_FOLD)
    trainer.wait_for_epoch(experiment, 20)
    assert httpx.delete(f"{trainer.url}/experiments/{experiment}").json()["state"] == "cancelled"
    time.sleep(2)
    stopped = [fold["epoch"] for fold in trainer.status(experiment)["folds"]]
    time.sleep(1)
    assert [fold["epoch"] for fold in trainer.status(experiment)["folds"]] == stopped
    httpx.post(f"{trainer.url}/experiments/{experiment}/resume")
    trainer.wait(experiment)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dataset": "absent"}, "dataset"),
        ({"dataset": "../made"}, "dataset"),
        ({"folds": [7]}, "folds"),
        ({"space": "other-1"}, "dataset"),
        ({"optimizer": {"epoch": 3}}, "optimizer.epoch"),
        ({"head": {"kind": "resmlp", "blocks": -1}}, "head.blocks"),
        ({"seeds": 0}, "seeds"),
        ({"seedz": 1}, "seedz"),
    ],
)
def test_wrong_request_names_its_field(trainer: Trainer, change: dict[str, Any], field: str) -> None:
    answer = httpx.post(f"{trainer.url}/experiments", json={**REQUEST, **change})
    assert answer.status_code in (404, 422)
    problem = answer.json()
    assert field in json.dumps(problem.get("errors", problem))
