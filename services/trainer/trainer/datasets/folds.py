"""Subjects and folds of a data set: near-duplicates become one subject, and no subject is in two folds.

Folds and validation splits are stratified by age and gender.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES, age_groups_of
from agegender.spaces import RECOGNISERS, Space, recogniser_of

from trainer.datasets.duplicates import (
    HASH_BITS,
    MAX_HASH_DISTANCE,
    Groups,
    join,
    person_groups,
    photograph_groups,
)
from trainer.datasets.embedding_set import EmbeddingSet, FaceLabels
from trainer.datasets.labels import NO_FOLD

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


NearDuplicates = Literal["off", "photographs", "persons"]
AUTOMATIC = "near-duplicates-"  # prefix of subjects that were found, not labelled


@dataclass(frozen=True)
class Grouping:
    """Options of grouping faces of unknown subject.

    Attributes
    ----------
    near_duplicates : None means `persons` if the space has a recogniser or `subjects` are given, otherwise
        `photographs`.
    subjects : file → subject, as found in another space of the same data set; used for unlabelled faces.
    subjects_from : id of that space.
    """

    near_duplicates: NearDuplicates | None = None
    subjects: Mapping[str, str] | None = None
    subjects_from: str | None = None


def require_recogniser(
    space: Space, near_duplicates: NearDuplicates | None, subjects_from: str | None
) -> None:
    """Raise ``no-recogniser`` 422 if `persons` is requested but the space has no recogniser."""
    if near_duplicates == "persons" and subjects_from is None and recogniser_of(space) is None:
        raise Problem(
            "no-recogniser",
            422,
            f"The space {space.id} has no face recogniser, so persons cannot be found in it; "
            f"{', '.join(RECOGNISERS)} has one. Extract the data set there and set subjects_from, add a "
            "column subject to the labels, or set near_duplicates=photographs.",
        )


def with_folds(faces: EmbeddingSet, grouping: Grouping | None = None) -> tuple[EmbeddingSet, dict[str, Any]]:
    """Return the faces with subjects for near-duplicates and a fold each, and meta-data about both.

    Copies of one photograph become one subject whatever their labels are. Faces of unknown subject become one
    subject if the recogniser takes them for one person. Folds are those of the data set; if it has none, five
    are made, stratified by decade of age × gender and grouped by subject. Deterministic.

    Raises ``no-recogniser`` and ``too-few-subjects`` 422.
    """
    grouping = grouping or Grouping()
    require_recogniser(faces.space, grouping.near_duplicates, grouping.subjects_from)
    faces, found = _grouped(faces, grouping)
    meta_data: dict[str, Any] = {
        "subjects": len(np.unique(groups_of(faces.subject))),
        "near_duplicates": found,
    }
    if (faces.fold != NO_FOLD).all():
        return faces, {**meta_data, "folds": "of the data set"}
    strata = strata_of(faces.age_low, faces.age_high, faces.gender)
    fold = stratified_folds(strata, groups_of(faces.subject), K)
    meta_data["folds"] = f"{K}, stratified by age and gender, grouped by subject"
    if warning := unequal(fold, groups_of(faces.subject)):
        meta_data["warning"] = warning
    return replace(faces, fold=fold), meta_data


def _grouped(faces: EmbeddingSet, grouping: Grouping) -> tuple[EmbeddingSet, dict[str, Any]]:
    recogniser = recogniser_of(faces.space)
    mode = grouping.near_duplicates
    if mode is None:
        mode = "persons" if recogniser or grouping.subjects_from else "photographs"
    labelled = faces.subject
    columns: dict[str, Any] = {"labelled_subject": labelled}
    found: dict[str, Any] = {"method": mode}
    if faces.has_hashes:
        photograph = photograph_groups(faces.file_sha256, faces.image_hash)
        columns["photograph"] = photograph.astype(np.int32)
        found["photographs"] = {
            **group_counts(photograph),
            "bits": HASH_BITS,
            "most_differing": MAX_HASH_DISTANCE,
        }
    else:
        photograph = np.arange(len(faces))
        found["photographs"] = "not searched: the images have no hashes"
    if mode == "off":
        return replace(faces, **columns), found
    if grouping.subjects is not None and mode == "persons":
        labelled = _filled(labelled, faces.file, grouping.subjects)
        found["persons"] = {"subjects_from": grouping.subjects_from}
    elif recogniser is not None and mode == "persons":
        unknown = np.flatnonzero(labelled == "")
        embedding = faces.embedding if len(unknown) == len(faces) else faces.embedding[unknown]
        persons = person_groups(recogniser.vectors(embedding), recogniser.threshold)
        found["persons"] = {
            **group_counts(persons),
            "recogniser": recogniser.name,
            "threshold": recogniser.threshold,
        }
        photograph = join(photograph, [np.stack([unknown, unknown[persons]])])
    subject = joined_subjects(labelled, photograph, faces.file)
    return replace(faces, **columns, subject=subject), {**found, **group_counts(_automatic(subject))}


def joined_subjects(
    subject: npt.NDArray[np.str_], group: Groups, file: npt.NDArray[np.str_]
) -> npt.NDArray[np.str_]:
    """Return subjects [faces], one for each set of faces that share a subject or a group.

    The name is the first labelled name in alphabetical order, or else is derived from the first file's name.
    A face without a name that is alone in its group keeps an empty one.
    """
    whole = join(np.asarray(group, np.int64), [_same_subject(subject)])
    names = subject.astype(object)
    for rows in _groups_of_several(whole):
        known = sorted(set(subject[rows].tolist()) - {""})
        digest = hashlib.sha256(str(file[rows[0]]).encode()).hexdigest()[:12]
        names[rows] = known[0] if known else f"{AUTOMATIC}{digest}"
    return names.astype(np.str_)


def labelled_subjects(faces: FaceLabels) -> npt.NDArray[np.str_]:
    """Return the subjects [faces] that the labels give, before near-duplicates were joined; empty if none.

    An extraction of an earlier release has the joined names only. They are returned, without automatic ones.
    """
    if len(faces.labelled_subject) == len(faces):
        return faces.labelled_subject
    return np.where(np.char.startswith(faces.subject, AUTOMATIC), "", faces.subject)


def group_counts(group: Groups) -> dict[str, int]:
    """Count the groups of at least two faces, their faces, and the faces of the largest."""
    _, sizes = np.unique(group, return_counts=True)
    several = sizes[sizes > 1]
    return {
        "groups": len(several),
        "faces": int(several.sum()),
        "largest": int(several.max()) if len(several) else 0,
    }


def found_groups(faces: FaceLabels, vectors: npt.NDArray[np.float32] | None) -> Iterator[dict[str, Any]]:
    """Describe each group of near-duplicates, largest first, for a person who reviews them.

    vectors : [faces, dimension] of the space's recogniser; None omits the cosine.
    """
    is_copy = len(faces.photograph) == len(faces)
    photograph = faces.photograph if is_copy else np.arange(len(faces))
    group = join(np.asarray(photograph, np.int64), [_same_subject(_only_automatic(faces.subject))])
    for rows in sorted(_groups_of_several(group), key=len, reverse=True):
        entry: dict[str, Any] = {
            "subject": str(faces.subject[rows[0]]),
            "found_by": "photographs" if len(set(photograph[rows].tolist())) == 1 else "persons",
            "files": faces.file[rows].tolist(),
        }
        if vectors is not None:
            # A group of copies may have any size; a hundred faces suffice.
            own = vectors[rows[:100]]
            entry["lowest_cosine"] = round(float((own @ own.T).min()), 4)
        yield entry


def _filled(
    subject: npt.NDArray[np.str_], file: npt.NDArray[np.str_], subjects: Mapping[str, str]
) -> npt.NDArray[np.str_]:
    return np.array(
        [own or subjects.get(name, "") for own, name in zip(subject.tolist(), file.tolist(), strict=True)],
        dtype=np.str_,
    )


def _same_subject(subject: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    """Return pairs [2, faces] of each face and the first face of its subject."""
    group = groups_of(subject)
    _, first, index = np.unique(group, return_index=True, return_inverse=True)
    return np.stack([np.arange(len(subject)), first[index]])


def _only_automatic(subject: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    return np.where(np.char.startswith(subject, AUTOMATIC), subject, "")


def _automatic(subject: npt.NDArray[np.str_]) -> Groups:
    return groups_of(_only_automatic(subject))


def _groups_of_several(group: Groups) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each group that has more than one."""
    order = np.argsort(group, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [members for members in rows if len(members) > 1]


def face_counts(faces: EmbeddingSet) -> dict[str, Any]:
    """Count faces by gender, by Adience age group (of the middle of the age interval) and by fold."""
    middle = ((faces.age_low + faces.age_high) / 2)[faces.has_age]
    group = np.bincount(age_groups_of(middle), minlength=len(AGE_GROUP_NAMES))
    fold, faces_of_fold = np.unique(faces.fold, return_counts=True)
    return {
        "gender": {name: int((faces.gender == number).sum()) for number, name in enumerate(GENDER_NAMES)},
        "age_groups": dict(zip(AGE_GROUP_NAMES, group.tolist(), strict=True)),
        "faces_of_fold": {str(number): int(count) for number, count in zip(fold, faces_of_fold, strict=True)},
    }
