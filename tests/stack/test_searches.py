"""Searches through HTTP, a real Redis and real RQ workers; and what is left of one after a kill."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment_data import load_faces
from trainer.runs.attempt import Attempt
from trainer.searches.search import load_search, trial_dir
from trainer.searches.study import search_status
from trainer.searches.trial import run_trial
from trainer.training.bank import prepare_device

from tests.support.made_faces import made_faces
from tests.support.serving import until
from tests.support.trainer_processes import Trainer

REQUEST = {
    "task": "age-gender",
    "dataset": "made",
    "trials": 3,
    "inner_folds": 2,
    "seeds": 1,
    "pruning": False,
    "optimizer": {"epochs": 60, "patience": 60, "batch_size": 16},
    "parameters": {
        "optimizer.learning_rate": {"low": 0.0001, "high": 0.02, "log": True},
        "head.hidden": {"choices": [[16], [32, 16]]},
    },
}


def create(trainer: Trainer, **headers: str) -> str:
    answer = trainer.http.post("/searches", json=REQUEST, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def status(trainer: Trainer, search: str) -> dict[str, Any]:
    return dict(trainer.http.get(f"/searches/{search}").json())


def wait_for_epoch(trainer: Trainer, search: str, epoch: int) -> None:
    def epochs() -> int:
        return max(int(trial["epoch"]) for trial in status(trainer, search)["trials"])

    until(lambda: epochs() >= epoch, "it trains", 240, 0.1)


def undisturbed(data_dir: Path, search_id: str, copy_id: str) -> list[Any]:
    """Run the same search in this process, one trial after the other, and return what is judged."""
    search = load_search(data_dir, search_id).model_copy(update={"id": copy_id})
    faces = load_faces(data_dir, search.datasets, search.space, search.image_set)
    machine = prepare_device("cpu", amp=False, threads=1)
    for number in range(search.trials):
        run_trial(data_dir, search, number, faces, Attempt(trial_dir(data_dir, copy_id, number)), machine)
    return judged(search_status(data_dir, search).model_dump(mode="json"))


def judged(found: dict[str, Any]) -> list[Any]:
    return [(trial["values"], trial["value"], trial["metrics"]) for trial in found["trials"]]


def test_search_outlives_its_worker_and_its_best_setting_trains_an_experiment(trainer: Trainer) -> None:
    worker = trainer.start_worker()
    search = create(trainer)
    wait_for_epoch(trainer, search, 20)
    trainer.kill(worker)
    trainer.start_worker(), trainer.start_worker()
    until(lambda: status(trainer, search)["state"] not in ("queued", "running"), "it ends", 600, 0.2)
    found = status(trainer, search)
    assert found["state"] == "finished", found
    assert max(trial["attempts"] for trial in found["trials"]) == 2
    assert judged(found) == undisturbed(trainer.data_dir, search, "search-copy")
    assert found["best"]["value"] == min(trial["value"] for trial in found["trials"])
    report = trainer.http.get(f"/searches/{search}/report?format=md").text
    assert "Fold 4 was held out" in report and "Trials, best first" in report
    page = trainer.http.get(f"/searches/{search}/report", headers={"Accept": "text/html"}).text
    assert page.count("<svg") == 1

    experiment = trainer.create(
        {**found["best"]["experiment"], "optimizer": {"epochs": 5}, "folds": [3, 4], "seeds": 1}
    )
    trainer.wait(experiment)
    report = trainer.http.get(f"/experiments/{experiment}/report?format=json").json()
    options, best = report["experiment"]["options"], found["best"]["values"]
    assert options["head"]["hidden"] == best["head.hidden"]
    assert options["optimizer"]["learning_rate"] == best["optimizer.learning_rate"]
    assert options["optimizer"]["epochs"] == 5
    text = trainer.http.get(f"/experiments/{experiment}/report?format=md").text
    assert f"search {search}" in text and "did not use fold 4" in text


def test_search_is_cancelled_resumed_and_deleted(trainer: Trainer) -> None:
    key = {"Idempotency-Key": "once"}
    search = create(trainer, **key)
    assert create(trainer, **key) == search
    trainer.start_worker()
    wait_for_epoch(trainer, search, 5)
    url = f"/searches/{search}"
    assert trainer.http.get(f"{url}/report").status_code == 409
    assert trainer.http.post(f"{url}/cancel").json()["state"] == "cancelled"
    refused = trainer.http.post("/experiments", json={"dataset": "made", "search": search})
    assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == "search"
    assert trainer.http.post(f"{url}/resume").json()["state"] == "running"
    with trainer.http.stream("GET", f"{url}/events", timeout=600) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data:")]
    assert json.loads(lines[-1][5:])["state"] == "finished" and len(lines) > 3
    assert search in [one["id"] for one in trainer.http.get("/searches").json()]
    assert trainer.http.delete(url).status_code == 200
    assert trainer.http.get(url).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"parameters": {"loss.widht": {"low": 0.1, "high": 1}}}, "parameters.loss.widht"),
        ({"parameters": {"loss.label_width": {"low": 1, "high": 99}}}, "parameters.loss.label_width"),
        ({"parameters": {"task.x": {"choices": [1]}}}, "parameters.task.x"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"seeds": {"low": 3, "high": 1}}}, "parameters.seeds"),
        ({"held_out": [0, 1, 2, 3, 4]}, "held_out"),
        ({"held_out": [9]}, "held_out"),
        ({"task": "gender", "goal": "mae"}, "goal"),
        ({"trials": 0}, "trials"),
        ({"trails": 3}, "trails"),
        ({"dataset": "absent"}, "dataset"),
        ({"dataset": "groups", "task": "age", "goal": "mae"}, "goal"),
        ({"dataset": "groups", "task": "gender"}, "dataset"),
    ],
)  # fmt: skip
def test_wrong_request_names_its_field(trainer: Trainer, change: dict[str, Any], field: str) -> None:
    faces = made_faces(200)
    groups = replace(faces, age_high=faces.age_low + 7, gender=np.full(200, -1, np.int8))
    write_embedding_set(trainer.data_dir, "groups", "images", groups, {})
    answer = trainer.http.post("/searches", json={**REQUEST, **change})
    assert answer.status_code == 422
    assert field in json.dumps(answer.json()["errors"])
