"""Metrics of predicted distributions, as pure functions of arrays."""

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
    """Return the age group [faces] of the middle of each label; group 0 for an unknown age."""
    return age_groups_of(np.nan_to_num((faces.age_low + faces.age_high) / 2))


def age_metrics(years: Array, faces: EmbeddingSet) -> dict[str, float | int | None]:
    """Return metrics of distributions over years [faces, 101] on the faces of known age.

    faces : number of these faces; the only metric if there are none.
    group_accuracy, one_off_accuracy : accuracy of Adience's groups, and with neighbouring groups counted too.
    floor : accuracy of the majority-class baseline.
    mae : mean absolute error of the expected age in years, on faces with an exact age; None without any.
    nll : mean negative log-likelihood of the label, in nats.
    """
    known = faces.has_age
    if not known.any():
        return {"faces": 0}
    years, faces = years[known], faces.rows(known)
    truth, predicted = true_groups(faces), group_probabilities(years).argmax(axis=1)
    exact = faces.age_low == faces.age_high
    error = np.abs(mean_years(years) - faces.age_low)[exact]
    low = np.clip(np.floor(faces.age_low), 0, 100).astype(np.int64)
    high = np.clip(np.floor(faces.age_high), 0, 100).astype(np.int64)
    return {
        "faces": len(faces),
        "group_accuracy": float((truth == predicted).mean()),
        "one_off_accuracy": float((np.abs(truth - predicted) <= 1).mean()),
        "floor": float(np.bincount(truth, minlength=len(AGE_GROUPS)).max() / len(truth)),
        "mae": float(error.mean()) if exact.any() else None,
        "nll": interval_nll(years, low, high),
    }


def gender_metrics(probabilities: Array, faces: EmbeddingSet) -> dict[str, float | int]:
    """Return metrics of probabilities [faces, 2] of female and male on the faces of known gender.

    faces : number of these faces. accuracy; floor : of the majority-class baseline. nll : nats.
    """
    known = faces.has_gender
    if not known.any():
        return {"faces": 0}
    predicted, truth = probabilities[known], faces.gender[known].astype(np.int64)
    return {
        "faces": len(truth),
        "accuracy": float((predicted.argmax(axis=1) == truth).mean()),
        "floor": float(np.bincount(truth, minlength=2).max() / len(truth)),
        "nll": interval_nll(predicted, truth, truth),
    }


def children_taken_for_adults(years: Array, low: Array, faces: EmbeddingSet) -> dict[str, int] | None:
    """Count the faces labelled below 13 years, and those of them that are predicted to be adults.

    Adult is a mean, or an interval's low end, of 18 years or more. Returns None without such faces.

    years : distributions [faces, 101]. low : low end of each interval, years [faces].
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
    """Return the expected calibration error of the top class, in equal-width bins (arXiv 1706.04599)."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    weight = np.bincount(index, minlength=bins)
    gap = np.bincount(index, confidence, bins) - np.bincount(index, correct.astype(np.float64), bins)
    return float(np.abs(gap[weight > 0]).sum() / len(truth))


def reliability(probabilities: Array, truth: npt.NDArray[np.integer], bins: int = 15) -> list[dict[str, Any]]:
    """Return the calibration curve: mean confidence and accuracy of each bin that has faces."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        {
            "confidence": float(confidence[index == number].mean()),
            "accuracy": float(correct[index == number].mean()),
            "faces": int((index == number).sum()),
        }
        for number in range(bins)
        if (index == number).any()
    ]


def confusion(
    truth: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], classes: int
) -> list[list[int]]:
    """Return the counts [true class][predicted class]."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (truth, predicted), 1)
    return [[int(count) for count in row] for row in table]
