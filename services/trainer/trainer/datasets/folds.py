"""Folds that no subject crosses, alike in ages and genders; and validation parts of the same kind."""

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


def unequal(fold: npt.NDArray[np.integer], groups: Integers) -> str | None:
    """A sentence if the largest fold has more than `_UNEQUAL` times the faces of the smallest, else None."""
    sizes = np.unique(fold, return_counts=True)[1]
    if sizes.max() <= max(_UNEQUAL * sizes.min(), sizes.min() + 2):
        return None
    _, faces = np.unique(groups, return_counts=True)
    return (
        f"The folds have {sizes.min()} to {sizes.max()} faces, because no subject is divided and the largest "
        f"has {faces.max()} of {len(groups)} faces."
    )


def validation_split(
    strata: Integers, groups: Integers, fraction: float = 0.1, seed: int = 0
) -> npt.NDArray[np.bool_]:
    """Mask of the faces of the validation split: the part nearest to `fraction` that divides no group.

    Groups that are much larger than the split should be stay in training. Only if what is left is too small
    is one of them taken, the smallest; training always keeps at least as many faces as validate. Alike in
    strata as far as groups allow; deterministic. `validation_note` says if the part is far from `fraction`.

    Raises ``too-few-subjects`` 422 for a single group.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    require_validation(groups)
    aim = fraction * len(groups)
    small = sizes <= max(1.0, _MUCH_LARGER * aim)
    rows = np.flatnonzero(small[group])
    parts = max(1 if not small.all() else 2, round(len(rows) / aim))
    parts = min(parts, int(np.count_nonzero(small)))
    candidates: list[npt.NDArray[np.int64]] = []
    if parts > 1:
        fold = stratified_folds(strata[rows], group[rows], parts, seed)
        candidates += [rows[fold == number] for number in range(parts)]
    elif parts == 1:
        candidates.append(rows)
    if not small.all():
        large = np.flatnonzero(~small)
        candidates.append(np.flatnonzero(group == large[np.argmin(sizes[large])]))
    possible = [part for part in candidates if 2 * len(part) <= len(groups)]
    chosen = min(possible, key=lambda part: abs(len(part) - aim))  # of equally near ones the first
    mask = np.zeros(len(groups), dtype=np.bool_)
    mask[chosen] = True
    return mask


def require_validation(groups: Integers) -> None:
    """Raise ``too-few-subjects`` 422 if there is only one group, of which no split can be made."""
    if len(np.unique(groups)) < 2:
        raise Problem(
            "too-few-subjects",
            422,
            "A single subject cannot be divided into training and validation; add faces of other people.",
        )


def validation_note(validation: int, training: int, fraction: float) -> str | None:
    """A sentence if a validation split is much larger or smaller than `fraction` of all, else None."""
    share = validation / (validation + training)
    if fraction / _FAR <= share <= fraction * _FAR:
        return None
    return (
        f"{validation} of {validation + training} faces validate ({share:.0%} where {fraction:.0%} was "
        "requested), because no subject is divided; add faces of more people."
    )


def _without_rare(strata: Integers, k: int) -> Integers:
    """Put strata that have fewer faces than there are folds, and so cannot be spread evenly, together."""
    names, index, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    merged = np.where(sizes[index] < k, names.max() + 1, strata)
    return merged if np.unique(merged, return_counts=True)[1].max() >= k else np.zeros_like(strata)
