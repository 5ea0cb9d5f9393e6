"""Metrics of predicted distributions; pure functions of arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.heads.calibration import interval_nll, mean_years
from agegender.labels import AGE_GROUPS, age_groups_of, group_probabilities

from trainer.datasets.embedding_set import EmbeddingSet

Array = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

CHILD_BELOW, ADULT_FROM = 13, 18  # years


def true_groups(faces: EmbeddingSet) -> npt.NDArray[np.int64]:
    """Age group [faces] of each label's middle; of unknown ages, group 0."""
    return age_groups_of(np.nan_to_num((faces.age_low + faces.age_high) / 2))


def age_metrics(years: Array, faces: EmbeddingSet) -> dict[str, float | int | None]:
    """Of distributions over years [faces, 101] against the known ages.

    mae : years, of the expected age, over the faces whose exact age is known. nll : nats, of the label.
    group_accuracy, one_off_accuracy : of Adience's groups. floor : what always saying the commonest gives.
    """
    known = faces.has_age
    if not known.any():
        return {"faces": 0}
    years, faces = years[known], faces.rows(known)
    truth, said = true_groups(faces), group_probabilities(years).argmax(axis=1)
    exact = faces.age_low == faces.age_high
    error = np.abs(mean_years(years) - faces.age_low)[exact]
    low = np.clip(np.floor(faces.age_low), 0, 100).astype(np.int64)
    high = np.clip(np.floor(faces.age_high), 0, 100).astype(np.int64)
    return {
        "faces": len(faces),
        "group_accuracy": float((truth == said).mean()),
        "one_off_accuracy": float((np.abs(truth - said) <= 1).mean()),
        "floor": float(np.bincount(truth, minlength=len(AGE_GROUPS)).max() / len(truth)),
        "mae": float(error.mean()) if exact.any() else None,
        "nll": interval_nll(years, low, high),
    }


def gender_metrics(probabilities: Array, faces: EmbeddingSet) -> dict[str, float | int]:
    """Of probabilities [faces, 2] of female and male against the known genders."""
    known = faces.has_gender
    if not known.any():
        return {"faces": 0}
    said, truth = probabilities[known], faces.gender[known].astype(np.int64)
    return {
        "faces": len(truth),
        "accuracy": float((said.argmax(axis=1) == truth).mean()),
        "floor": float(np.bincount(truth, minlength=2).max() / len(truth)),
        "nll": interval_nll(said, truth, truth),
    }


def children_taken_for_adults(years: Array, low: Array, faces: EmbeddingSet) -> dict[str, int] | None:
    """Of the faces labelled below 13: how many, and of how many the mean, or all of the interval, is adult.

    years : distributions [faces, 101]. low : where each interval begins. None where there are no such faces.
    """
    young = faces.has_age & (faces.age_high < CHILD_BELOW)
    if not young.any():
        return None
    return {
        "faces": int(young.sum()),
        "mean_adult": int((mean_years(years[young]) >= ADULT_FROM).sum()),
        "interval_adult": int((low[young] >= ADULT_FROM).sum()),
    }


def calibration_error(probabilities: Array, truth: npt.NDArray[np.integer], bins: int = 15) -> float:
    """Expected calibration error of the likeliest class, in bins of equal width (arXiv 1706.04599)."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    weight = np.bincount(index, minlength=bins)
    gap = np.bincount(index, confidence, bins) - np.bincount(index, correct.astype(np.float64), bins)
    return float(np.abs(gap[weight > 0]).sum() / len(truth))


def reliability(probabilities: Array, truth: npt.NDArray[np.integer], bins: int = 15) -> list[dict[str, Any]]:
    """The calibration curve: mean confidence and accuracy of each bin that has faces."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        {
            "confidence": float(confidence[index == one].mean()),
            "accuracy": float(correct[index == one].mean()),
            "faces": int((index == one).sum()),
        }
        for one in range(bins)
        if (index == one).any()
    ]


def confusion(truth: npt.NDArray[np.integer], said: npt.NDArray[np.integer], classes: int) -> list[list[int]]:
    """Counts [true class][said class]."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (truth, said), 1)
    return [[int(count) for count in row] for row in table]
