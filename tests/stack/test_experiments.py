"""Experiments through HTTP, a real Redis and real RQ workers; and what is left of them after kills."""

import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.heads.head import Task, heads_directory, load_head, read_current
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment import fold_dir

from tests.support.made_faces import SPACE, made_faces
from tests.support.recovery import PROMISED
from tests.support.redis_server import redis_server
from tests.support.serving import free_port, until
from tests.support.trainer_processes import ONE_FOLD, ONE_FOLD_EPOCHS, REQUEST, TWO_FOLDS, Trainer
from tests.support.witness import checkpointed_epoch, reported_epoch, witness_to_the_end


def test_experiment_runs_reports_and_is_promoted(trainer: Trainer) -> None:
    trainer.start_worker()
    experiment = trainer.create(REQUEST, **{"Idempotency-Key": "once"})
    assert trainer.create(REQUEST, **{"Idempotency-Key": "once"}) == experiment
    early = httpx.post(f"{trainer.url}/experiments/{experiment}/promote")
    assert early.status_code == 409
    with httpx.stream("GET", f"{trainer.url}/experiments/{experiment}/events", timeout=120) as stream:
        events = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
    assert events[-1]["state"] == "finished"
    assert len({json.dumps(event) for event in events}) == len(events) > 3

    figures = trainer.figures(experiment)
    for task in ("age", "gender"):
        rows = figures["tables"][task]
        assert [row["fold"] for row in rows] == ["0", "1", "2", "3", "4", "mean"]
        assert rows[-1]["test"] > rows[-1]["floor"]
    assert abs(figures["out_of_fold"]["age"]["coverage"] - 0.9) < 0.05
    markdown = httpx.get(f"{trainer.url}/experiments/{experiment}/report?format=md").text
    assert "| held-out fold | train | validation | test |" in markdown
    html = httpx.get(f"{trainer.url}/experiments/{experiment}/report", headers={"Accept": "text/html"}).text
    assert html.count("<svg") == 4

    promote = f"{trainer.url}/experiments/{experiment}/promote"
    versions = httpx.post(promote, params={"refit": False}, timeout=60).json()
    for task in Task:
        served = heads_directory(trainer.data_dir / "models", task, SPACE)
        current = read_current(served)
        assert current is not None and current.version == versions[task.value]
        head = load_head(served / current.version)
        assert head.manifest.members == 10
        assert head.manifest.card["data"]["faces"] == 600
    refused = httpx.delete(f"{trainer.url}/experiments/{experiment}")
    assert refused.status_code == 409 and versions["age"] in refused.json()["detail"]
    shutil.rmtree(trainer.data_dir / "models")
    assert httpx.delete(f"{trainer.url}/experiments/{experiment}").status_code == 200
    assert httpx.get(f"{trainer.url}/experiments/{experiment}").status_code == 404


def test_one_two_and_four_workers_give_the_same_report(trainer: Trainer) -> None:
    request = {**REQUEST, "folds": [0, 1, 2, 3]}
    figures = []
    for workers in (1, 2, 4):
        while len(trainer.workers) < workers:
            trainer.start_worker()
        trainer.wait_for_workers()
        experiment = trainer.create(request)
        folds = trainer.wait(experiment)["folds"]
        took = {fold["worker"] for fold in folds}
        assert len(took) == 1 if workers == 1 else len(took) > 1
        figures.append(trainer.figures(experiment))
    assert figures[0] == figures[1] == figures[2]


def test_number_of_workers_and_a_killed_worker_change_nothing(
    trainer: Trainer, undisturbed_folds: dict[str, Any]
) -> None:
    first = trainer.start_worker()
    killed = trainer.create(TWO_FOLDS)
    trainer.wait_for_epoch(killed, 30)
    trainer.kill(first)
    died = time.monotonic()
    second, third = trainer.start_worker(), trainer.start_worker()
    attempts = until_attempts(trainer, killed)
    assert time.monotonic() - died < PROMISED
    assert attempts == 2
    status = trainer.wait(killed)
    assert trainer.figures(killed) == undisturbed_folds
    assert sorted(fold["attempts"] for fold in status["folds"]) == [1, 2]
    del second, third


def until_attempts(trainer: Trainer, experiment: str) -> int:
    def attempts() -> int:
        return max(int(fold["attempts"]) for fold in trainer.status(experiment)["folds"])

    until(lambda: attempts() > 1, "a worker takes the fold over", 240)
    return attempts()


@pytest.mark.parametrize("worker_too", [False, True])
def test_redis_killed_and_back_from_its_log_loses_nothing(
    tmp_path: Path, life: ExitStack, undisturbed_folds: dict[str, Any], worker_too: bool
) -> None:
    port, options = free_port(), ("--appendonly", "yes", "--appendfsync", "always")
    server = life.enter_context(redis_server(tmp_path, *options, port=port))
    trainer = Trainer(tmp_path, server.url, free_port())
    life.callback(trainer.stop)
    trainer.start_api()
    worker = trainer.start_worker()
    experiment = trainer.create(TWO_FOLDS)
    until(lambda: has_checkpoint(trainer, experiment), "a checkpoint is written", 240, 0.02)
    server.process.kill()
    server.process.wait(10)
    if worker_too:
        trainer.kill(worker)
        # Its last report stands until the next attempt reports more.
        last = reported_epoch(trainer.data_dir, experiment, 0)
        resumed_at = min(last, checkpointed_epoch(trainer.data_dir, experiment, 0))
    until(lambda: not trainer.ready(), "the trainer has noticed", 30)
    life.enter_context(redis_server(tmp_path, *options, port=port))
    if not worker_too:  # it continues, or gives up without Redis; a supervisor would start it again
        until(
            lambda: worker.poll() is not None or ended_folds(trainer, experiment) > 0, "it ends its fold", 240
        )
    for _fold in range(2):  # so that no fold waits for the other
        trainer.start_worker()
    back = time.monotonic()
    seen = witness_to_the_end(trainer, experiment)
    assert all(len(ends) == 1 for ends in seen.ends.values()) and len(seen.ends) == 2
    if worker_too:
        assert (seen.attempts(0), seen.attempts(1)) == (2, 1)
        assert min(seen.epochs[0, 2]) >= resumed_at > 1
        assert seen.begun[0, 2] - back < PROMISED
    assert trainer.figures(experiment) == undisturbed_folds


def has_checkpoint(trainer: Trainer, experiment: str) -> bool:
    return (fold_dir(trainer.data_dir, experiment, 0) / "checkpoint.safetensors").exists()


def ended_folds(trainer: Trainer, experiment: str) -> int:
    return sum(fold["state"] == "finished" for fold in trainer.status(experiment)["folds"])


def test_api_killed_alone_in_the_middle_of_a_fold_holds_nothing_up(
    trainer: Trainer, undisturbed_folds: dict[str, Any]
) -> None:
    api = trainer.api
    assert api is not None
    trainer.start_worker()
    experiment = trainer.create(TWO_FOLDS)
    trainer.wait_for_epoch(experiment, 5)
    (job,) = trainer.jobs()
    job.suspend()  # so that the fold does not end before the API
    trainer.kill(api)
    at = reported_epoch(trainer.data_dir, experiment, 0)
    job.resume()
    until(
        lambda: reported_epoch(trainer.data_dir, experiment, 0) > at,
        "the fold continues without it",
        60,
        0.02,
    )
    trainer.start_api()
    seen = witness_to_the_end(trainer, experiment)
    # The new API finds the jobs of the old one in Redis, and makes none twice.
    assert (seen.attempts(0), seen.attempts(1)) == (1, 1)
    assert all(len(ends) == 1 for ends in seen.ends.values()) and len(seen.ends) == 2
    assert trainer.figures(experiment) == undisturbed_folds


def test_killed_api_and_emptied_redis_lose_nothing(trainer: Trainer, undisturbed: dict[str, Any]) -> None:
    import redis

    assert trainer.api is not None
    trainer.start_worker()
    experiment = trainer.create(ONE_FOLD)
    trainer.wait_for_epoch(experiment, 20)
    trainer.kill(trainer.api)
    redis.Redis.from_url(trainer.environment["REDIS_URL"]).flushall()
    trainer.start_api()
    trainer.wait(experiment)
    assert trainer.figures(experiment) == undisturbed


def test_failed_fold_is_logged_in_lines_that_can_be_read(
    trainer: Trainer, capfd: pytest.CaptureFixture[str]
) -> None:
    """The job's process sets up its logs like its worker: a traceback, without pages of local variables."""
    experiment = trainer.create({**REQUEST, "folds": [0]})
    directory = fold_dir(trainer.data_dir, experiment, 0)
    directory.mkdir(parents=True)
    (directory / "checkpoint.safetensors").write_bytes(b"damaged")
    trainer.start_worker()
    until(lambda: trainer.status(experiment)["state"] == "failed", "it fails", 240)
    logged = capfd.readouterr().err
    assert "job failed" in logged and "Traceback" in logged and "SafetensorError" in logged
    assert len(logged.splitlines()) < 60 and "\N{BOX DRAWINGS LIGHT VERTICAL}" not in logged


def test_cancelled_experiment_stops_and_continues_when_resumed(trainer: Trainer) -> None:
    trainer.start_worker()
    experiment = trainer.create(ONE_FOLD)
    trainer.wait_for_epoch(experiment, 20)
    (job,) = trainer.jobs()
    job.suspend()  # so that the fold does not end before the cancellation
    assert httpx.post(f"{trainer.url}/experiments/{experiment}/cancel").json()["state"] == "cancelled"
    job.resume()
    until(lambda: not trainer.jobs(), "its job has given up", 60)
    (stopped,) = trainer.status(experiment)["folds"]
    assert 20 <= stopped["epoch"] < ONE_FOLD_EPOCHS
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
        ({"dataset": "few"}, "validation"),
        ({"dataset": "ages"}, "task"),
        ({"dataset": "ages", "task": "gender"}, "dataset"),
        ({"seedz": 1}, "seedz"),
    ],
)
def test_wrong_request_names_its_field(trainer: Trainer, change: dict[str, Any], field: str) -> None:
    write_embedding_set(trainer.data_dir, "few", "images", made_faces(4, folds=2), {})  # a person each
    ages = replace(made_faces(200), gender=np.full(200, -1, np.int8))
    write_embedding_set(trainer.data_dir, "ages", "images", ages, {})
    answer = httpx.post(f"{trainer.url}/experiments", json={**REQUEST, **change})
    assert answer.status_code in (404, 422)
    problem = answer.json()
    assert field in json.dumps(problem.get("errors", problem))
