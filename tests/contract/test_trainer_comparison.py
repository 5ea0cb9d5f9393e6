"""Experiments side by side: paired comparison, names and notes, folds of one's own, and misspelt options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.stats import ttest_1samp
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment import experiment_dir, fold_dir, load_experiment, save_experiment
from trainer.experiments.experiment_data import load_faces_of
from trainer.experiments.fold import run_fold
from trainer.reports.report import summarise, write_reports
from trainer.runs.attempt import Attempt
from trainer.training.bank import prepare_device

from tests.support.made_faces import made_faces
from tests.support.trained_experiments import OPTIONS, trained_experiment

SHORT = OPTIONS.model_copy(update={"optimizer": OPTIONS.optimizer.model_copy(update={"epochs": 1})})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`long` and `short` learnt from the same faces, for eight epochs and for one; `other` from others."""
    data_dir = tmp_path_factory.mktemp("trained")
    faces = made_faces(240, folds=3)
    trained_experiment(data_dir, "long", "faces", faces)
    trained_experiment(data_dir, "short", "faces", faces, SHORT)
    trained_experiment(data_dir, "other", "others", made_faces(60, seed=3, folds=3), SHORT)
    return data_dir


def errors(trainer: httpx.Client, name: str) -> dict[str, list[float]]:
    """Return the age errors of each subject."""
    found: dict[str, list[float]] = {}
    for row in trainer.get(f"/experiments/{name}/predictions").json():
        found.setdefault(row["subject"], []).append(abs(row["mean"] - row["true_age"]))
    return found


def test_experiments_are_compared_face_by_face_with_an_interval_over_subjects(trainer: httpx.Client) -> None:
    answer = trainer.get("/experiments/short/paired-comparison?with=long")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert [one["id"] for one in found["experiments"]] == ["long", "short"] and found["faces"] == 240
    assert [one["options"] for one in found["experiments"]] == [
        {"optimizer.epochs": 8},
        {"optimizer.epochs": 1},
    ]
    better, worse = errors(trainer, "long"), errors(trainer, "short")
    subjects = np.array([np.mean(better[name]) - np.mean(worse[name]) for name in better])
    age = next(one for one in found["differences"] if one["metric"] == "age_error")
    assert (age["first"], age["second"], age["faces"], age["subjects"]) == ("long", "short", 240, 120)
    assert age["difference"] == pytest.approx(subjects.mean(), abs=1e-3)
    # Each subject has two faces, so this is the same as an interval of the subjects' means.
    expected = ttest_1samp(subjects, 0).confidence_interval(0.95)
    assert (age["low"], age["high"]) == pytest.approx((expected.low, expected.high), abs=1e-3)
    assert age["high"] < 0 and "long is better than short" in age["summary"]
    same = trainer.get("/experiments/long/paired-comparison?with=short").json()
    assert same["differences"] == found["differences"]


@pytest.mark.parametrize(
    ("query", "status"),
    [("?with=other", 422), ("?with=long", 422), ("", 422), ("?with=none", 404), ("?with=..%2fx", 404)],
)
def test_comparison_without_a_common_face_is_rejected(trainer: httpx.Client, query: str, status: int) -> None:
    answer = trainer.get(f"/experiments/long/paired-comparison{query}")
    assert answer.status_code == status
    if query == "?with=other":
        assert "no face in common" in answer.json()["detail"]


def test_experiment_has_a_name_and_notes_that_can_be_changed(trainer: httpx.Client, data_dir: Path) -> None:
    begun = {"dataset": "faces", "name": "first", "notes": "with blur"}
    created = trainer.post("/experiments", json=begun).json()
    assert (created["name"], created["notes"]) == ("first", "with blur")
    path = f"/experiments/{created['id']}"
    assert trainer.patch(path, json={"name": "second"}).json()["name"] == "second"
    assert trainer.patch(path, json={"notes": None}).json()["notes"] is None
    assert trainer.get(path).json()["name"] == "second"
    assert trainer.patch(path, json={"name": "x" * 101}).status_code == 422
    assert trainer.patch(path, json={"title": "x"}).status_code == 422
    assert trainer.patch("/experiments/none", json={"name": "x"}).status_code == 404
    long = load_experiment(data_dir, "long").model_copy(update={"name": "<b>long</b>", "notes": "for *ever*"})
    save_experiment(data_dir, long)
    write_reports(data_dir, long, summarise(data_dir, long))
    assert "for *ever*" in trainer.get("/experiments/long/report?format=md").text
    page = trainer.get("/experiments/long/report?format=html").text
    assert "&lt;b&gt;long" in page and "<b>long" not in page


def test_subjects_are_divided_into_as_many_folds_as_requested(trainer: httpx.Client, data_dir: Path) -> None:
    created = trainer.post(
        "/experiments", json={"dataset": "faces", "k": 7, "seeds": 1, "optimizer": {"epochs": 1}}
    ).json()
    assert [one["fold"] for one in created["folds"]] == list(range(7))
    experiment = load_experiment(data_dir, created["id"])
    faces = load_faces_of(data_dir, experiment)
    sizes = np.bincount(faces.fold)
    assert len(sizes) == 7 and sizes.min() >= 20
    for subject in np.unique(faces.subject):
        assert len(np.unique(faces.fold[faces.subject == subject])) == 1
    attempt = Attempt(fold_dir(data_dir, experiment.id, 6))
    run_fold(data_dir, experiment, faces, 6, attempt, prepare_device("cpu", False, 1))
    rows = trainer.get(f"/experiments/{experiment.id}/predictions").json()
    assert len(rows) == sizes[6] and {row["fold"] for row in rows} == {6}
    write_embedding_set(data_dir, "tiny", "images", made_faces(8, folds=2), {"kind": "made up"})
    for k in (5, 1, 51):
        answer = trainer.post("/experiments", json={"dataset": "tiny", "k": k})
        assert answer.status_code == 422 and answer.json()["errors"][0]["field"].endswith("k")


@pytest.mark.parametrize("route", ["experiments", "searches"])
def test_mixup_without_a_face_with_both_labels_is_a_warning(
    trainer: httpx.Client, data_dir: Path, route: str
) -> None:
    """One of the two faces of each subject has an age, and the other one a gender."""
    faces = made_faces(240, folds=3)
    first = np.arange(240) % 2 == 0
    age = np.where(first, faces.age_low, np.nan).astype(np.float32)
    halves = replace(
        faces, age_low=age, age_high=age, gender=np.where(first, -1, faces.gender).astype(np.int8)
    )
    write_embedding_set(data_dir, "halves", "images", halves, {"kind": "made up"})
    for task, expected in (("age-gender", 1), ("age", 0)):
        begun = {"dataset": "halves", "task": task, "augmentation": {"mixup": 0.2}}
        answer = trainer.post(f"/{route}", json=begun)
        assert answer.status_code == 202, answer.text
        assert sum("augmentation.mixup" in text for text in answer.json()["warnings"]) == expected


@pytest.mark.parametrize(
    ("request_", "suggestion"),
    [
        ({"epochs": 5}, "'epochs'; did you mean 'optimizer.epochs'?"),
        ({"Epoch": 5}, "'Epoch'; did you mean 'optimizer.epochs'?"),
        ({"dropout": 0.1}, "'dropout'; did you mean 'head.dropout'?"),
        ({"optimizer": {"epoch": 5}}, "'optimizer.epoch'; did you mean 'optimizer.epochs'?"),
        ({"head": {"epochs": 5}}, "'head.epochs'; did you mean 'optimizer.epochs'?"),
        ({"loss": {"zzz": 5}}, "accepted names are loss.gender_weight"),
        ({"fold": [0]}, "'fold'; did you mean 'folds'?"),
    ],
)
def test_misspelt_option_is_rejected_with_the_nearest_one(
    trainer: httpx.Client, request_: dict[str, Any], suggestion: str
) -> None:
    answer = trainer.post("/experiments", json={"dataset": "faces", **request_})
    assert answer.status_code == 422 and suggestion in answer.json()["detail"]


def test_report_hints_at_more_epochs_if_the_last_was_best(trainer: httpx.Client, data_dir: Path) -> None:
    def hints(name: str) -> list[str]:
        found: list[str] = summarise(data_dir, load_experiment(data_dir, name))["hints"]
        return found

    (hint,) = hints("long")
    assert "the last epoch (8)" in hint and "--set optimizer.epochs=16" in hint
    assert f"Hint: {hint}" in trainer.get("/experiments/long/report?format=md").text
    for path in experiment_dir(data_dir, "long").glob("folds/*/metrics.json"):
        text = path.read_text()
        start = text.index('"best_epochs"')
        end = text.index("]", start)
        path.write_text(f'{text[:start]}"best_epochs": [3, 4{text[end:]}')
    assert hints("long") == []
