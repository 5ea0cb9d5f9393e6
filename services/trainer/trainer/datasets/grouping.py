"""Who must stay together, and in which fold: completes a data set that was just extracted."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.datasets import EmbeddingSet

from trainer.datasets.duplicates import find_near_duplicates
from trainer.datasets.folds import K, groups_of, strata_of, stratified_folds
from trainer.labels.labelled import NO_FOLD


def with_folds(faces: EmbeddingSet) -> tuple[EmbeddingSet, dict[str, Any]]:
    """The faces with a subject for near-duplicates of unknown subject, and a fold for each.

    Folds are the data set's own where it has them, else five, stratified by decade of age × gender and
    grouped by subject. Beside them goes what the meta-data tell of it. Deterministic.
    """
    unknown = np.flatnonzero(faces.subject == "")
    everyone = len(unknown) == len(faces)  # then no copy: the embeddings may be a mapped file
    embedding = faces.embedding if everyone else faces.embedding[unknown]
    groups, found = find_near_duplicates(embedding, faces.gender[unknown])
    faces = replace(faces, subject=_named(faces.subject, unknown, groups))
    told: dict[str, Any] = {
        "subjects": len(np.unique(groups_of(faces.subject))),
        "near_duplicates": asdict(found),
    }
    if (faces.fold != NO_FOLD).all():
        return faces, {**told, "folds": "of the data set"}
    strata = strata_of(faces.age_low, faces.age_high, faces.gender)
    fold = stratified_folds(strata, groups_of(faces.subject), K)
    return replace(faces, fold=fold), {
        **told,
        "folds": f"{K}, stratified by age and gender, grouped by subject",
    }


def _named(
    subject: npt.NDArray[np.str_], unknown: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]
) -> npt.NDArray[np.str_]:
    names, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    several = sizes[index] > 1
    named = subject.astype(object)
    named[unknown[several]] = [f"near-duplicates-{names[group]:06d}" for group in index[several]]
    return named.astype(np.str_)
