"""Subject-exclusive folds and validation splits, stratified by age and gender."""

import warnings

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem

K = 5
_DECADE = 10
_AGE_STRATA = 12  # eleven decades, and unknown
_ENOUGH = 20
_UNEQUAL = 1.5
_MUCH_LARGER = 1.5
_FAR = 1.6

Integers = npt.NDArray[np.int64]


def groups_of(subject: npt.NDArray[np.str_]) -> Integers:
    """Number the subjects [faces]; a face of unknown (empty) subject is a group of its own."""
    names, group = np.unique(subject, return_inverse=True)
    group = group.astype(np.int64)
    unknown = subject == ""
    group[unknown] = len(names) + np.arange(np.count_nonzero(unknown))
    return group


def strata_of(
    age_low: npt.NDArray[np.floating], age_high: npt.NDArray[np.floating], gender: npt.NDArray[np.integer]
) -> Integers:
    """Number the strata [faces]: decade of age (middle of the interval) × gender."""
    middle = (age_low + age_high) / 2
    decade = np.where(np.isfinite(middle), np.nan_to_num(middle) // _DECADE, _AGE_STRATA - 1)
    return np.asarray((gender.astype(np.int64) + 1) * _AGE_STRATA + decade.astype(np.int64))


def stratified_folds(strata: Integers, groups: Integers, k: int = K, seed: int = 0) -> npt.NDArray[np.int16]:
    """Return a fold [faces] of 0 to k - 1 for each face; folds share no group and have similar strata.

    Deterministic in its arguments. Raises ``too-few-subjects`` 422 if there are fewer groups than folds.
    """
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < k:
        raise Problem(
            "too-few-subjects",
            422,
            f"{len(names)} subjects (or groups of near-duplicate faces) cannot be divided into {k} folds; "
            f"expected at least {k}. Add faces of more people.",
        )
    # Takes a second to import, so not when the API starts.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fold = np.full(len(groups), -1, dtype=np.int16)
    alone = sizes[group] == 1
    # Faces that are alone in their group need no grouped split, which is a hundred times slower.
    if np.count_nonzero(alone) >= _ENOUGH * k and np.count_nonzero(~alone) >= _ENOUGH * k:
        divisions = [np.flatnonzero(alone), np.flatnonzero(~alone)]
    else:
        divisions = [np.arange(len(groups))]
    for rows in divisions:
        spread = _without_rare(strata[rows], k)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")
            if alone[rows].all():
                splits = StratifiedKFold(k, shuffle=True, random_state=seed).split(spread, spread)
            else:
                grouped = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
                splits = grouped.split(spread, spread, group[rows])
            for number, (_, held_out) in enumerate(splits):
                fold[rows[held_out]] = number
    return fold


def unequal(fold: npt.NDArray[np.integer], groups: Integers) -> str | None:
    """Return a warning if the largest fold has over `_UNEQUAL` times the faces of the smallest, else None."""
    sizes = np.unique(fold, return_counts=True)[1]
    if sizes.max() <= max(_UNEQUAL * sizes.min(), sizes.min() + 2):
        return None
    _, faces = np.unique(groups, return_counts=True)
    return (
        f"The folds have {sizes.min()} to {sizes.max()} faces: subjects are not divided, and the largest "
        f"subject has {faces.max()} of {len(groups)} faces."
    )


def validation_split(
    strata: Integers, groups: Integers, fraction: float = 0.1, seed: int = 0
) -> npt.NDArray[np.bool_]:
    """Return a mask [faces] of the validation split, which divides no group and is close to `fraction`.

    Groups that are much larger than the split should be remain in training; the smallest of them is used only
    if the other groups are too small. Training keeps at least half of the faces. The strata are as similar
    as the groups allow. Deterministic. `validation_note` describes a split that is far from `fraction`.

    Raises ``too-few-subjects`` 422 for a single group.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    require_validation(groups)
    target = fraction * len(groups)
    small = sizes <= max(1.0, _MUCH_LARGER * target)
    rows = np.flatnonzero(small[group])
    count = max(1 if not small.all() else 2, round(len(rows) / target))
    count = min(count, int(np.count_nonzero(small)))
    candidates: list[npt.NDArray[np.int64]] = []
    if count > 1:
        fold = stratified_folds(strata[rows], group[rows], count, seed)
        candidates += [rows[fold == number] for number in range(count)]
    elif count == 1:
        candidates.append(rows)
    if not small.all():
        large = np.flatnonzero(~small)
        candidates.append(np.flatnonzero(group == large[np.argmin(sizes[large])]))
    possible = [candidate for candidate in candidates if 2 * len(candidate) <= len(groups)]
    split = min(possible, key=lambda candidate: abs(len(candidate) - target))  # the first of equals
    mask = np.zeros(len(groups), dtype=np.bool_)
    mask[split] = True
    return mask


def require_validation(groups: Integers) -> None:
    """Raise ``too-few-subjects`` 422 if there is only one group, which cannot be split."""
    if len(np.unique(groups)) < 2:
        raise Problem(
            "too-few-subjects",
            422,
            "A single subject cannot be divided into training and validation; add faces of other people.",
        )


def validation_note(validation: int, training: int, fraction: float) -> str | None:
    """Return a note if the validation split is much larger or smaller than `fraction` of all, else None."""
    share = validation / (validation + training)
    if fraction / _FAR <= share <= fraction * _FAR:
        return None
    return (
        f"{validation} of {validation + training} faces are in the validation split ({share:.0%}; requested "
        f"{fraction:.0%}), because subjects are not divided. Add faces of more people."
    )


def _without_rare(strata: Integers, k: int) -> Integers:
    """Merge the strata with fewer than k faces, which cannot be spread over k folds."""
    names, index, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    merged = np.where(sizes[index] < k, names.max() + 1, strata)
    return merged if np.unique(merged, return_counts=True)[1].max() >= k else np.zeros_like(strata)
