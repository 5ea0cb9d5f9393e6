"""Calibrate on out-of-fold predictions: arrays in, numbers out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from agegender.heads.calibration import ConformalIntervals, fit_temperature, tempered
from agegender.heads.head import Classes, Task, over_years

from trainer.datasets.embedding_set import EmbeddingSet, age_bounds
from trainer.datasets.folds import K, groups_of, strata_of, stratified_folds

Array = npt.NDArray[np.float32]

REPORTED_COVERAGE = 0.9


@dataclass(frozen=True)
class OutOfFold:
    """Faces of all held-out folds, with probabilities [faces, classes] by networks that never saw them."""

    faces: EmbeddingSet
    probabilities: dict[Task, Array]


@dataclass(frozen=True)
class Calibration:
    """Temperature, and conformal intervals for an age head."""

    temperature: float
    conformal: ConformalIntervals | None


def class_bounds(
    faces: EmbeddingSet, task: Task, classes: Classes
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the first and last class of each label, and whether it is known [faces]."""
    if task is Task.GENDER:
        gender = np.maximum(faces.gender, 0).astype(np.int64)
        return gender, gender, faces.has_gender
    low, high = age_bounds(faces, classes)
    return low, high, faces.has_age


def calibrate(found: OutOfFold, task: Task, classes: Classes, rows: npt.NDArray[np.bool_]) -> Calibration:
    """Fit temperature and conformal intervals to the faces that `rows` selects."""
    low, high, known = class_bounds(found.faces, task, classes)
    use = rows & known
    probabilities = found.probabilities[task][use]
    temperature = fit_temperature(probabilities, low[use], high[use])
    if task is Task.GENDER:
        return Calibration(temperature, None)
    years = over_years(np.asarray(tempered(probabilities, temperature), np.float32), classes)
    faces = found.faces
    return Calibration(temperature, ConformalIntervals.fit(years, faces.age_low[use], faces.age_high[use]))


def crossed_calibration(
    found: OutOfFold, task: Task, classes: Classes
) -> tuple[Array, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return calibrated probabilities, and interval ends at 90 %, with a calibration on the other folds.

    The report's metrics after calibration are therefore of faces that the calibration did not see. A single
    fold is divided by subjects; a single subject is calibrated on itself.
    """
    calibrated = found.probabilities[task].copy()
    low, high = np.zeros(len(found.faces)), np.zeros(len(found.faces))
    divisions = _divisions(found.faces)
    for division in np.unique(divisions):
        own = divisions == division
        calibration = calibrate(found, task, classes, ~own)
        calibrated[own] = tempered(found.probabilities[task][own], calibration.temperature)
        if calibration.conformal is not None:
            years = over_years(calibrated[own], classes)
            low[own], high[own] = calibration.conformal.intervals(years, REPORTED_COVERAGE)
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
