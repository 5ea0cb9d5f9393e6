"""Data sets of which some faces, or all, lack an age or a gender."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agegender.errors import Problem
from trainer.datasets.embedding_set import EmbeddingSet, write_embedding_set
from trainer.experiments.experiment import fold_dir, save_experiment
from trainer.experiments.experiment_data import require_labels
from trainer.experiments.fold import run_fold
from trainer.reports.report import summarise, write_reports
from trainer.runs.attempt import Attempt
from trainer.training.bank import CPU
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.made_faces import in_decades, made_faces
from tests.support.trained_experiments import trained_experiment

BOTH, AGE = TrainingOptions(), TrainingOptions(task="age")
FACES = made_faces(200)


def with_gender_of(rows: np.ndarray) -> EmbeddingSet:
    return replace(FACES, gender=np.where(rows, FACES.gender, -1).astype(np.int8))


@pytest.mark.parametrize(
    ("known", "field", "start"),
    [
        (FACES.fold < 0, "task", 'No face has a known gender. Use "task": "age".'),
        (FACES.fold == 1, "folds", "Fold 0 has no face of known gender to evaluate on. Use"),
        (
            FACES.fold == 0,
            "folds",
            "All faces of known gender are in fold 0; none is left to train on. Use",
        ),
    ],
)
def test_what_lacks_is_reported_before_anything_is_trained(known: np.ndarray, field: str, start: str) -> None:
    faces = with_gender_of(known)
    with pytest.raises(Problem) as refused:
        require_labels(faces, faces.fold, range(5), BOTH)
    assert refused.value.status == 422
    assert refused.value.extra["errors"][0]["field"] == field
    assert refused.value.detail.startswith(start)
    require_labels(faces, faces.fold, range(5), AGE)


def test_ages_that_lack_are_reported_too() -> None:
    faces = replace(
        FACES, age_low=np.full(200, np.nan, np.float32), age_high=np.full(200, np.nan, np.float32)
    )
    with pytest.raises(Problem, match=r'No face has a known age\. Use "task": "gender"'):
        require_labels(faces, faces.fold, range(5), BOTH)


def test_validation_part_without_a_gender_is_a_gap_in_the_report(tmp_path: Path) -> None:
    """One subject a fold has a gender, so that most validation parts have none."""
    faces = with_gender_of(np.isin(FACES.subject.astype(int), range(5)))
    write_embedding_set(tmp_path, "made", "images", faces, {})
    options = TrainingOptions.model_validate(
        {"head": {"kind": "mlp", "hidden": [8]}, "optimizer": {"epochs": 2}, "seeds": 1}
    )
    experiment = made_experiment([0, 1, 2, 3, 4], options)
    save_experiment(tmp_path, experiment)
    require_labels(faces, faces.fold, experiment.folds, options)
    for fold in experiment.folds:
        run_fold(tmp_path, experiment, faces, fold, Attempt(fold_dir(tmp_path, experiment.id, fold)), CPU)
    summary = summarise(tmp_path, experiment)
    validation = [row["validation"] for row in summary["tables"]["gender"][:-1]]
    assert None in validation
    assert all(row["test"] is not None for row in summary["tables"]["gender"])
    write_reports(tmp_path, experiment, summary)


@pytest.mark.parametrize(("exact", "gaps"), [([0], {"validation"}), ([], {"train", "validation", "test"})])
def test_report_has_dashes_if_no_validation_split_has_an_exact_age(
    tmp_path: Path, exact: list[int], gaps: set[str]
) -> None:
    faces = made_faces(120, folds=3)
    made = trained_experiment(tmp_path, "made", "made", in_decades(faces, exact))
    spread = summarise(tmp_path, made)["members"]["age"]
    assert {split for split, metrics in spread.items() if "mae" not in metrics} == gaps
    text = (tmp_path / "experiments" / "made" / "report.md").read_text()
    table = text.partition("## Single networks: age")[2].partition("##")[0]
    (row,) = [line for line in table.splitlines() if "mean absolute error" in line] or [""]
    assert row.count("–") == len(gaps) % 3
    assert "## Ensembles, out of fold: age" in text
