"""Predictions of trained banks, their metrics, and calibration on out-of-fold ones: arrays in, arrays out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.heads.calibration import (
    ConformalIntervals,
    Familiarity,
    extended,
    fit_temperature,
    interval_nll,
    mean_years,
    tempered,
)
from agegender.heads.head import Classes, Task, over_years
from agegender.heads.networks import bank_logits, softmax
from agegender.labels import AGE_GROUPS, age_groups_of, group_probabilities

from trainer.datasets.embedding_set import EmbeddingSet, age_bounds
from trainer.datasets.folds import K, groups_of, strata_of, stratified_folds
from trainer.training.config import TrainingOptions

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

CHILD_BELOW, ADULT_FROM = 13, 18  # years
REPORTED_COVERAGE = 0.9
ROUGH_BELOW = 50  # faces; metrics of fewer are called rough
_CHUNK = 2048  # faces predicted at once


def member_probabilities(
    tensors: dict[str, Array], options: TrainingOptions, faces: EmbeddingSet
) -> dict[Task, Array]:
    """Return the class probabilities of every member [members, faces, classes] for each task."""
    layers = options.head.layers(faces.space.dimension, options.outputs)
    chunks: dict[Task, list[Array]] = {task: [] for task, _ in options.tasks}
    for begin in range(0, max(len(faces), 1), _CHUNK):
        logits = bank_logits(layers, tensors, faces.embedding[begin : begin + _CHUNK])
        start = 0
        for task, classes in options.tasks:
            own = logits[..., start : start + classes.outputs]
            chunks[task].append(np.asarray(softmax(own), dtype=np.float32))
            start += classes.outputs
    return {task: np.concatenate(values, axis=1) for task, values in chunks.items()}


def task_tensors(tensors: dict[str, Array], options: TrainingOptions, task: Task) -> dict[str, Array]:
    """Return the shared layers and the output columns of one task, of a bank trained on both tasks."""
    start = 0
    for own_task, classes in options.tasks:
        if own_task is task:
            columns = slice(start, start + classes.outputs)
            return {
                **tensors,
                "output.weight": tensors["output.weight"][..., columns],
                "output.bias": tensors["output.bias"][..., columns],
            }
        start += classes.outputs
    raise KeyError(task)


def true_groups(faces: EmbeddingSet) -> npt.NDArray[np.int64]:
    """Return the age group [faces] of the middle of each label; group 0 for an unknown age."""
    return age_groups_of(np.nan_to_num((faces.age_low + faces.age_high) / 2))


def age_metrics(years: Floats, faces: EmbeddingSet) -> dict[str, float | int | None]:
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


def exact_ages(faces: EmbeddingSet) -> int:
    """Return the number of faces with an exact age: those that the mean absolute error is measured on."""
    return int((faces.has_age & (faces.age_low == faces.age_high)).sum())


def few_exact_ages(metrics: Mapping[str, Any]) -> bool:
    """Return whether a mean absolute error is of too few of the faces to stand for them.

    metrics : with `faces`, and `exact_faces` unless an earlier release wrote them.
    """
    exact, faces = metrics.get("exact_faces"), metrics.get("faces")
    return isinstance(exact, int) and exact < ROUGH_BELOW and exact != faces


def gender_metrics(probabilities: Floats, faces: EmbeddingSet) -> dict[str, float | int]:
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


def mean_interval(values: Floats, groups: npt.NDArray[np.integer]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of values [faces] that are not independent.

    Uses the cluster-robust variance CR2 and Student's t with the degrees of freedom of Bell and McCaffrey
    (2002, Survey Methodology 28(2), 169-181), which Imbens and Kolesár (2016, Review of Economics and
    Statistics 98(4), 701-712) recommend for few clusters. With groups of one size it is the t-interval of the
    groups' means.

    groups : number from 0 of each face's group [faces], at least two of them; values of one group may depend
        on each other.
    """
    from scipy.special import stdtrit  # takes a quarter of a second

    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    mean = float(sums.sum() / sizes.sum())
    share = sizes / sizes.sum()
    weight = share**2 / (1 - share)
    error = math.sqrt(float((weight * (sums / sizes - mean) ** 2).sum()))
    degrees = 1 / float((share**2).sum() + weight.sum() ** 2 - (weight**2).sum())
    # Errors of gender differ in few groups. The others have no part in the variance.
    degrees = max(1.0, min(degrees, np.count_nonzero(sums) - 1.0))
    reach = error * float(stdtrit(degrees, 0.975))
    return mean - reach, mean + reach


def children_taken_for_adults(years: Floats, low: Floats, faces: EmbeddingSet) -> dict[str, int] | None:
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


def calibration_error(probabilities: Floats, truth: npt.NDArray[np.integer], bins: int = 15) -> float:
    """Return the expected calibration error of the top class, in equal-width bins (arXiv 1706.04599)."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    weight = np.bincount(index, minlength=bins)
    gap = np.bincount(index, confidence, bins) - np.bincount(index, correct.astype(np.float64), bins)
    return float(np.abs(gap[weight > 0]).sum() / len(truth))


def reliability(
    probabilities: Floats, truth: npt.NDArray[np.integer], bins: int = 15
) -> list[dict[str, Any]]:
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


@dataclass(frozen=True)
class OutOfFold:
    """Faces of all held-out folds, with probabilities [faces, classes] by networks that never saw them."""

    faces: EmbeddingSet
    probabilities: dict[Task, Array]


@dataclass(frozen=True)
class Calibration:
    """Temperature; for an age head also conformal intervals, and the statistics that extend them."""

    temperature: float
    conformal: ConformalIntervals | None
    familiarity: Familiarity | None = None

    def intervals(self, years: Array, embeddings: Array, coverage: float) -> tuple[Floats, Floats]:
        """Return the ends of the age intervals [faces], as a head answers them for faces of good quality.

        years : calibrated distributions [faces, 101].
        """
        assert self.conformal is not None
        ends = self.conformal.intervals(years, coverage)
        return extended(*ends, self.familiarity, embeddings, coverage)


def class_bounds(
    faces: EmbeddingSet, task: Task, classes: Classes
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the first and last class of each label, and whether it is known [faces]."""
    if task is Task.GENDER:
        gender = np.maximum(faces.gender, 0).astype(np.int64)
        return gender, gender, faces.has_gender
    low, high = age_bounds(faces, classes)
    return low, high, faces.has_age


def calibrate(
    found: OutOfFold, task: Task, classes: Classes, rows: npt.NDArray[np.bool_], exact: bool = False
) -> Calibration:
    """Fit temperature, conformal intervals and familiarity to the faces that `rows` selects.

    exact : whether the coverage is kept with the years that familiarity adds, on faces like these; otherwise
        these years come on top, which covers more of such faces, and enough of faces from elsewhere.
    """
    low, high, known = class_bounds(found.faces, task, classes)
    use = rows & known
    probabilities = found.probabilities[task][use]
    temperature = fit_temperature(probabilities, low[use], high[use])
    if task is Task.GENDER:
        return Calibration(temperature, None)
    years = over_years(np.asarray(tempered(probabilities, temperature), np.float32), classes)
    faces = found.faces
    selected = np.flatnonzero(rows)
    familiarity = Familiarity.fit(faces.embedding, selected) if len(selected) else None
    known_familiarity = familiarity.of(faces.embedding[use]) if exact and familiarity else None
    conformal = ConformalIntervals.fit(
        years, faces.age_low[use], faces.age_high[use], familiarity=known_familiarity
    )
    return Calibration(temperature, conformal, familiarity)


def crossed_calibration(
    found: OutOfFold, task: Task, classes: Classes, exact: bool = False
) -> tuple[Array, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return calibrated probabilities, and interval ends at 90 %, with a calibration on the other folds.

    The report's metrics after calibration are therefore of faces that the calibration did not see. A single
    fold is divided by subjects; a single subject is calibrated on itself.

    exact : as for `calibrate`.
    """
    calibrated = found.probabilities[task].copy()
    low, high = np.zeros(len(found.faces)), np.zeros(len(found.faces))
    divisions = _divisions(found.faces)
    for division in np.unique(divisions):
        own = divisions == division
        calibration = calibrate(found, task, classes, ~own, exact)
        calibrated[own] = tempered(found.probabilities[task][own], calibration.temperature)
        if calibration.conformal is not None:
            years, embeddings = over_years(calibrated[own], classes), found.faces.embedding[own]
            low[own], high[own] = calibration.intervals(years, embeddings, REPORTED_COVERAGE)
    return calibrated, low, high


def _divisions(faces: EmbeddingSet) -> npt.NDArray[np.int16]:
    """Return the folds [faces]; a single fold is divided so that no subject is shared."""
    if len(np.unique(faces.fold)) > 1:
        return faces.fold
    groups = groups_of(faces.subject)
    divisions = min(K, len(np.unique(groups)))
    if divisions < 2:
        return faces.fold
    return stratified_folds(strata_of(faces.age_low, faces.age_high, faces.gender), groups, divisions)
