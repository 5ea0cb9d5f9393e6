"""Folds that no subject crosses, alike in ages and genders; and validation parts of the same kind."""

import math
import warnings

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem

K = 5
_DECADE = 10
_AGE_STRATA = 12  # eleven decades, and unknown
_ENOUGH = 20

Integers = npt.NDArray[np.int64]


def groups_of(subject: npt.NDArray[np.str_]) -> Integers:
    """Number the subjects; a face whose subject is unknown (empty) is a group of its own."""
    names, group = np.unique(subject, return_inverse=True)
    group = group.astype(np.int64)
    unknown = subject == ""
    group[unknown] = len(names) + np.arange(np.count_nonzero(unknown))
    return group


def strata_of(
    age_low: npt.NDArray[np.floating], age_high: npt.NDArray[np.floating], gender: npt.NDArray[np.integer]
) -> Integers:
    """Number each face's decade of age (middle of the interval) × gender."""
    middle = (age_low + age_high) / 2
    decade = np.where(np.isfinite(middle), np.nan_to_num(middle) // _DECADE, _AGE_STRATA - 1)
    return np.asarray((gender.astype(np.int64) + 1) * _AGE_STRATA + decade.astype(np.int64))


def stratified_folds(strata: Integers, groups: Integers, k: int = K, seed: int = 0) -> npt.NDArray[np.int16]:
    """Divide faces into k folds that share no group and are alike in strata.

    Deterministic in its arguments. Raises ``too-few-subjects`` 422 where there are fewer groups than folds.
    """
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < k:
        raise Problem(
            "too-few-subjects",
            422,
            f"{len(names)} subjects (or groups of near-duplicate faces) cannot be divided into {k} parts; "
            f"at least {k} are needed.",
        )
    # Costs a second, which the API need not wait for when it starts.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fold = np.full(len(groups), -1, dtype=np.int16)
    alone = sizes[group] == 1
    # Faces alone in their group need no grouped split, which is a hundred times slower.
    if np.count_nonzero(alone) >= _ENOUGH * k and np.count_nonzero(~alone) >= _ENOUGH * k:
        parts = [np.flatnonzero(alone), np.flatnonzero(~alone)]
    else:
        parts = [np.arange(len(groups))]
    for part in parts:
        spread = _without_rare(strata[part], k)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")
            if alone[part].all():
                splits = StratifiedKFold(k, shuffle=True, random_state=seed).split(spread, spread)
            else:
                grouped = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
                splits = grouped.split(spread, spread, group[part])
            for number, (_, chosen) in enumerate(splits):
                fold[part[chosen]] = number
    return fold


def require_validation(groups: Integers, fraction: float) -> None:
    """Raises ``too-few-subjects`` 422 where `validation_split` has too few groups for its fraction."""
    there, needed = len(np.unique(groups)), _parts(fraction)
    if there < 2:
        told = "A single subject cannot be divided into training and validation; add faces of other people."
        raise Problem("too-few-subjects", 422, told)
    if there < needed:
        raise Problem(
            "too-few-subjects",
            422,
            f"Besides the left-out fold there are {there} subjects (or groups of near-duplicate faces); a "
            f"validation part of {fraction:g} needs {needed}. Make validation at least "
            f"{math.ceil(100 / there) / 100:g}, or add faces of more people.",
        )


def validation_split(
    strata: Integers, groups: Integers, fraction: float = 0.1, seed: int = 0
) -> npt.NDArray[np.bool_]:
    """Mask of the faces that validate: about `fraction` of them, no group on both sides, alike in strata.

    Raises ``too-few-subjects`` 422.
    """
    require_validation(groups, fraction)
    return np.asarray(stratified_folds(strata, groups, k=_parts(fraction), seed=seed) == 0)


def _parts(fraction: float) -> int:
    """Of which one validates."""
    return max(2, round(1 / fraction))


def _without_rare(strata: Integers, k: int) -> Integers:
    """Put strata that have fewer faces than there are folds, and so cannot be spread evenly, together."""
    names, index, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    merged = np.where(sizes[index] < k, names.max() + 1, strata)
    return merged if np.unique(merged, return_counts=True)[1].max() >= k else np.zeros_like(strata)
