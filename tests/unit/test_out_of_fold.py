"""Metrics after calibration are of faces that it did not see, even if only one fold was held out."""

from dataclasses import replace

import numpy as np
import pytest
from agegender.heads.calibration import interval_nll, mean_years
from agegender.heads.head import Classes, Task
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.evaluation import OutOfFold, age_metrics, crossed_calibration

from tests.support.made_faces import made_faces

FOLDS = [1, 2, 5]


def too_sure(faces: EmbeddingSet) -> OutOfFold:
    """Return ages with an error of eight years and a stated deviation of five."""
    guess = faces.age_low + np.random.default_rng(3).normal(0, 8, len(faces))
    predicted = np.exp(-0.5 * ((np.arange(101) - guess[:, None]) / 5) ** 2) + 1e-9
    return OutOfFold(
        faces, {Task.AGE: np.asarray(predicted / predicted.sum(axis=1, keepdims=True), np.float32)}
    )


@pytest.mark.parametrize("folds", FOLDS)
def test_calibration_mends_the_certainty_and_leaves_the_ages(folds: int) -> None:
    found = too_sure(made_faces(2000, folds=folds))
    raw, truth = found.probabilities[Task.AGE], found.faces.age_low.astype(np.int64)
    calibrated, low, high = crossed_calibration(found, Task.AGE, Classes.YEARS)
    assert interval_nll(calibrated, truth, truth) < interval_nll(raw, truth, truth) - 0.1
    before, after = (age_metrics(years, found.faces)["mae"] for years in (raw, calibrated))
    assert before is not None and after is not None and after < 1.05 * before
    assert 0.87 < np.mean((low <= truth) & (truth <= high)) < 0.95
    assert np.mean(high - low) < 40


@pytest.mark.parametrize("folds", FOLDS)
def test_calibration_knows_nothing_of_the_label_that_it_serves(folds: int) -> None:
    """The labels of a subject decide about the others' calibration alone."""
    found = too_sure(made_faces(200, folds=folds))
    own = found.faces.subject == found.faces.subject[0]
    moved = found.faces.age_low.copy()
    moved[own] += 1  # in the same decade, so that the parts stay as they were
    assert (moved[own] // 10 == found.faces.age_low[own] // 10).all()
    lied = replace(found, faces=replace(found.faces, age_low=moved, age_high=moved))
    honest, other = (
        [np.asarray(values) for values in crossed_calibration(one, Task.AGE, Classes.YEARS)]
        for one in (found, lied)
    )
    for before, after in zip(honest, other, strict=True):
        np.testing.assert_array_equal(before[own], after[own])
        assert (before[~own] != after[~own]).any()


def test_single_subject_is_left_uncalibrated_with_an_interval_of_all_ages() -> None:
    found = too_sure(made_faces(2, folds=1))
    calibrated, low, high = crossed_calibration(found, Task.AGE, Classes.YEARS)
    np.testing.assert_array_equal(calibrated, found.probabilities[Task.AGE])
    assert (low == 0).all() and (high == 100).all()
    assert (mean_years(calibrated) < 100).all()
