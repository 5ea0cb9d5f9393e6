"""Counts of a data set's faces, as meta-data, reports and the original's README tell them."""

from typing import Any

import numpy as np
from agegender.datasets import EmbeddingSet
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES, age_groups_of


def face_counts(faces: EmbeddingSet) -> dict[str, Any]:
    """Faces by gender, by Adience age group (of the middle of the age interval) and by fold."""
    middle = ((faces.age_low + faces.age_high) / 2)[faces.has_age]
    group = np.bincount(age_groups_of(middle), minlength=len(AGE_GROUP_NAMES))
    fold, faces_of_fold = np.unique(faces.fold, return_counts=True)
    return {
        "gender": {name: int((faces.gender == number).sum()) for number, name in enumerate(GENDER_NAMES)},
        "age_groups": dict(zip(AGE_GROUP_NAMES, group.tolist(), strict=True)),
        "faces_of_fold": {str(number): int(count) for number, count in zip(fold, faces_of_fold, strict=True)},
    }
