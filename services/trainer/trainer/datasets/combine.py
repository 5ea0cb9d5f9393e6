"""Several extracted data sets as one, to train on together."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from agegender.datasets import EmbeddingSet, FaceLabels
from agegender.errors import Problem


def combine(sets: Mapping[str, EmbeddingSet]) -> EmbeddingSet:
    """Concatenate data sets, by name, in the order of the mapping, as `combine_labels` does their labels.

    Mirrored embeddings stay where all sets have them. Raises ``space-mismatch`` 409, too.
    """
    parts = list(sets.values())
    for part in parts[1:]:
        parts[0].space.require(part.space)
    mirrored = all(len(part.embedding_mirrored) == len(part) for part in parts)
    return EmbeddingSet(
        **vars(combine_labels(sets)),
        space=parts[0].space,
        embedding=np.concatenate([part.embedding for part in parts]),
        embedding_mirrored=np.concatenate(
            [part.embedding_mirrored if mirrored else part.embedding_mirrored[:0] for part in parts]
        ),
    )


def combine_labels(sets: Mapping[str, FaceLabels]) -> FaceLabels:
    """Concatenate labels, by name, in the order of the mapping.

    Files and subjects are prefixed with the data set's name, so that those of two sets never mix. All get the
    number of folds of the set that has the fewest: its fold k is joined by the others' folds k, k + folds, …,
    so a head that leaves a fold out has seen no subject of it.

    Raises ``no-folds`` 409 for a set without folds.
    """
    names, parts = list(sets), list(sets.values())
    if without := [name for name, part in sets.items() if len(part) == 0 or (part.fold < 0).any()]:
        raise Problem("no-folds", 409, f"The data set {without[0]!r} has no folds; extract it again.")
    folds = min(int(part.fold.max()) + 1 for part in parts)
    return FaceLabels(
        file=_prefixed(names, [part.file for part in parts]),
        age_low=np.concatenate([part.age_low for part in parts]),
        age_high=np.concatenate([part.age_high for part in parts]),
        gender=np.concatenate([part.gender for part in parts]),
        subject=_prefixed(names, [part.subject for part in parts]),
        fold=np.concatenate([part.fold % folds for part in parts]).astype(np.int16),
    )


def _prefixed(names: list[str], columns: list[npt.NDArray[np.str_]]) -> npt.NDArray[np.str_]:
    return np.concatenate(
        [
            np.where(column == "", "", np.char.add(f"{name}/", column))
            for name, column in zip(names, columns, strict=True)
        ]
    )
