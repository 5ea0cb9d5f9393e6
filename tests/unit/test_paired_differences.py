"""Verdicts on two experiments: rarely one without a difference, and none with too few subjects."""

import time
from pathlib import Path

import numpy as np
import pytest
from trainer.evaluation import mean_interval
from trainer.experiments.experiment import experiment_dir
from trainer.experiments.predictions import COLUMNS, PairedDifference, compare_experiments, write_predictions

from tests.support.made_experiment import made_experiment
from tests.support.trained_experiments import OPTIONS

DRAWS = 4000


def wrong_verdicts(sizes: np.ndarray, within: float) -> float:
    """Return the share of intervals without 0 though there is no difference.

    sizes : faces per subject. within : deviation within a subject; the one between them is 1.
    """
    draws = np.random.default_rng(0)
    subjects = np.repeat(np.arange(len(sizes)), sizes)
    wrong = 0
    for _ in range(DRAWS):
        values = draws.standard_normal(len(sizes))[subjects] + within * draws.standard_normal(len(subjects))
        low, high = mean_interval(values, subjects)
        wrong += not low <= 0 <= high
    return wrong / DRAWS


@pytest.mark.parametrize("within", [0.3, 3.0])
@pytest.mark.parametrize("subjects", [3, 5, 8, 20])
def test_one_verdict_in_twenty_is_wrong_without_a_difference(subjects: int, within: float) -> None:
    assert 0.04 < wrong_verdicts(np.full(subjects, 10), within) < 0.06


@pytest.mark.parametrize("subjects", [5, 8, 20])
def test_unequal_subjects_do_not_make_verdicts_more_frequent(subjects: int) -> None:
    assert 0.01 < wrong_verdicts(np.array([40, *[4] * (subjects - 1)]), 0.3) < 0.07


def test_errors_of_gender_in_few_subjects_rarely_decide() -> None:
    """Two experiments differ for a tenth of the subjects, equally often in each direction."""
    draws = np.random.default_rng(0)
    for subjects in (8, 20, 60):
        group, wrong = np.arange(subjects), 0
        for _ in range(DRAWS):
            values = draws.choice([-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], subjects)
            low, high = mean_interval(values, group)
            wrong += not low <= 0 <= high
        assert wrong / DRAWS < 0.06


def test_interval_of_twenty_thousand_faces_takes_no_time() -> None:
    draws = np.random.default_rng(0)
    values, subjects = draws.standard_normal(20_000), np.arange(20_000) // 2
    mean_interval(values, subjects)
    start = time.perf_counter()
    mean_interval(values, subjects)
    assert time.perf_counter() - start < 0.25


def differences(data_dir: Path, subjects: int) -> dict[str, PairedDifference]:
    """Compare two experiments on two faces per subject; the first one is better on each of them."""
    made = []
    draws = np.random.default_rng(1)
    for name, error, p_female in (("first", 2.0, 0.9), ("second", 9.0, 0.1)):
        made.append(made_experiment([0], OPTIONS, name=name))
        rows = 2 * subjects
        columns: dict[str, list[object]] = {column: [None] * rows for column in COLUMNS}
        columns |= {
            "dataset": ["made"] * rows,
            "file": [f"{row}.jpg" for row in range(rows)],
            "subject": [str(row // 2) for row in range(rows)],
            "true_age": [30.0] * rows,
            "true_age_low": [30.0] * rows,
            "true_age_high": [30.0] * rows,
            "true_gender": ["female"] * rows,
            "mean": [30 + error + float(noise) for noise in draws.uniform(-0.5, 0.5, rows)],
            "p_female": [p_female] * rows,
            "out_of_fold": [True] * rows,
        }
        write_predictions(experiment_dir(data_dir, name), columns)
    return {one.metric: one for one in compare_experiments(data_dir, made).differences}


@pytest.mark.parametrize(("subjects", "decided"), [(1, []), (2, []), (5, ["age_error"])])
def test_too_few_subjects_get_no_verdict(tmp_path: Path, subjects: int, decided: list[str]) -> None:
    found = differences(tmp_path, subjects)
    assert found["age_error"].difference == pytest.approx(-7, abs=1)
    assert found["gender_error"].difference == -1
    for metric, one in found.items():
        assert ("first is better than second" in one.summary) == (metric in decided)
        assert ("too few subjects" in one.summary) == (metric not in decided)
        assert (one.low is None) == (one.high is None) == (metric not in decided)
    assert f"of {subjects} subject{'s' if subjects > 1 else ''}." in found["age_error"].summary


def test_six_subjects_are_enough_for_both_errors(tmp_path: Path) -> None:
    for one in differences(tmp_path, 6).values():
        assert "first is better than second" in one.summary
        assert one.high is not None and one.high < 0
