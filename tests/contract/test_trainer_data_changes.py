"""Data sets that change under experiments, searches and evaluations: answers, jobs and resumed runs."""

from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from agegender.files import read_json
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment import FACES, experiment_dir, fold_dir, load_experiment
from trainer.jobs import judge_heads, run_trial, train_fold, write_search_report
from trainer.reports.contents import origins
from trainer.searches.search import search_dir

from tests.support.made_faces import made_faces
from tests.support.trained_experiments import OPTIONS, trained_experiment

LARGE = made_faces(120, folds=3)
QUICK = OPTIONS.model_copy(update={"optimizer": OPTIONS.optimizer.model_copy(update={"epochs": 1})})
CHANGED = "was extracted or grouped again"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`big` learnt from `large`; `others` are other people."""
    data_dir = tmp_path_factory.mktemp("trained")
    trained_experiment(data_dir, "big", "large", LARGE, QUICK)
    others = made_faces(80, seed=4)
    others = replace(others, subject=np.char.add("other-", others.subject))
    write_embedding_set(data_dir, "others", "images", others, {"kind": "made up"})
    return data_dir


def regroup(data_dir: Path) -> None:
    """Divide the subjects of `large` into other folds, as `agegender regroup` may."""
    moved = replace(LARGE, fold=np.asarray((LARGE.fold + 1) % 3, np.int16))
    write_embedding_set(data_dir, "large", "images", moved, {"kind": "made up"})


def change_of(trainer: httpx.Client, name: str, **body: object) -> tuple[int, str]:
    answer = trainer.post(f"/datasets/{name}/regroup", json=body)
    return answer.status_code, str(answer.json().get("detail"))


def restore(data_dir: Path) -> None:
    write_embedding_set(data_dir, "large", "images", LARGE, {"kind": "made up"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/experiments/big/promote"),
        ("POST", "/experiments/big/promote?force=true"),
        ("GET", "/experiments/big/onnx"),
        ("GET", "/experiments/big/predictions"),
        ("POST", "/evaluations"),
    ],
)
def test_experiment_whose_faces_have_changed_makes_no_heads(
    trainer: httpx.Client, data_dir: Path, method: str, path: str
) -> None:
    regroup(data_dir)
    body = {"dataset": "others", "head": "big"} if path == "/evaluations" else None
    answer = trainer.request(method, path, json=body)
    assert answer.status_code == 409, answer.text
    assert answer.json()["type"].endswith(":bad-dataset") and CHANGED in answer.json()["detail"]
    assert "Restore the extracted data set" in answer.json()["detail"]
    assert not (data_dir / "models").exists()
    restore(data_dir)
    assert trainer.request(method, path, json=body).is_success


@pytest.mark.parametrize("options", [{}, {"k": 4}, {"overlap": "merge"}], ids=["plain", "k", "merged"])
def test_fold_of_a_regrouped_data_set_fails_and_resumes_once_it_is_restored(
    trainer: httpx.Client, data_dir: Path, options: dict[str, object]
) -> None:
    body = {"dataset": "large", "seeds": 1, "optimizer": {"epochs": 1}, **options}
    created = trainer.post("/experiments", json=body).json()
    directory = experiment_dir(data_dir, created["id"])
    record = read_json(directory / "experiment.json")
    assert record["data_sha256"] == {"large": read_json(next(data_dir.glob("large/*/meta*.json")))["sha256"]}
    assert (directory / FACES).is_file()
    train_fold(created["id"], 0)
    assert (fold_dir(data_dir, created["id"], 0) / "metrics.json").exists()
    regroup(data_dir)
    train_fold(created["id"], 1)
    status = trainer.get(f"/experiments/{created['id']}").json()["folds"][1]
    if options:  # subjects and folds are its own
        assert status["state"] == "finished"
        return
    assert status["state"] == "failed" and CHANGED in status["problem"]
    restore(data_dir)
    assert trainer.post(f"/experiments/{created['id']}/resume").status_code == 200
    train_fold(created["id"], 1)
    assert trainer.get(f"/experiments/{created['id']}").json()["folds"][1]["state"] == "finished"


def test_trial_of_a_regrouped_data_set_fails(trainer: httpx.Client, data_dir: Path) -> None:
    body = {"dataset": "large", "trials": 2, "inner_folds": 2, "seeds": 1, "optimizer": {"epochs": 1}}
    search = trainer.post("/searches", json=body).json()["id"]
    assert read_json(search_dir(data_dir, search) / "search.json")["data_sha256"]
    run_trial(search, 0)
    regroup(data_dir)
    run_trial(search, 1)
    first, second = trainer.get(f"/searches/{search}").json()["trials"]
    assert (first["state"], second["state"]) == ("finished", "failed") and CHANGED in second["problem"]


def test_evaluation_of_faces_that_were_replaced_after_their_check_fails(
    trainer: httpx.Client, data_dir: Path
) -> None:
    created = trainer.post("/evaluations", json={"dataset": "others", "head": "big"})
    assert created.status_code == 202, created.text
    write_embedding_set(data_dir, "others", "images", LARGE, {"kind": "made up"})
    judge_heads(created.json()["id"])
    status = trainer.get(f"/evaluations/{created.json()['id']}").json()
    assert status["state"] == "failed" and f"others {CHANGED}" in status["problem"]
    assert "data_sha256" not in status


def test_data_set_is_not_regrouped_while_a_run_uses_it(trainer: httpx.Client, data_dir: Path) -> None:
    options = {"seeds": 1, "optimizer": {"epochs": 1}}
    experiment = trainer.post("/experiments", json={"dataset": "large", **options}).json()["id"]
    search = trainer.post("/searches", json={"dataset": "large", "trials": 1, **options}).json()["id"]
    for path in (f"/experiments/{experiment}", f"/searches/{search}"):
        status, detail = change_of(trainer, "large")
        assert status == 409 and path.rpartition("/")[2] in detail and "cancel" in detail
        trainer.post(f"{path}/cancel")
    status, _ = change_of(trainer, "large")
    assert status == 202
    resumed = trainer.post(f"/experiments/{experiment}/resume")  # a repeated request changes nothing
    assert resumed.status_code == 200 and change_of(trainer, "large")[0] == 202
    assert change_of(trainer, "others")[0] == 202


def test_report_calls_a_fold_independent_of_a_search_only_if_its_faces_are_the_same(
    trainer: httpx.Client, data_dir: Path
) -> None:
    options = {"seeds": 1, "optimizer": {"epochs": 1}}
    body = {"dataset": "large", "trials": 1, "inner_folds": 2, "held_out": [2], **options}
    search = trainer.post("/searches", json=body).json()["id"]
    run_trial(search, 0)
    write_search_report(search)

    def stated(**changes: object) -> str:
        answer = trainer.post("/experiments", json={"dataset": "large", "search": search, **changes})
        assert answer.status_code == 202, answer.text
        trainer.post(f"/experiments/{answer.json()['id']}/cancel")
        experiment = load_experiment(data_dir, answer.json()["id"])
        return " ".join(origins({"experiment": experiment.model_dump(mode="json")}))

    assert "It did not use fold 2: that row is independent" in stated()
    assert "may have used faces of every fold" in stated(k=3)
    assert "may have used faces of every fold" in stated(overlap="allow")
    assert "it is unknown whether" in stated(dataset="others", overlap="allow")
    regroup(data_dir)
    assert "may have used faces of every fold" in stated()
