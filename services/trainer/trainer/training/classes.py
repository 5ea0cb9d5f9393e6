"""Age labels as classes of the head."""

import numpy as np
from agegender.datasets import EmbeddingSet
from agegender.heads.head import Classes
from agegender.labels import MAX_AGE, age_groups_of


def age_bounds(faces: EmbeddingSet, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """First and last class [faces] that each known age label allows; unknown ages give class 0."""
    low, high = np.nan_to_num(faces.age_low), np.nan_to_num(faces.age_high)
    if classes is Classes.GROUPS:
        group = age_groups_of((low + high) / 2)
        return group, group
    low, high = np.clip(np.floor(low), 0, MAX_AGE), np.clip(np.floor(high), 0, MAX_AGE)
    return low.astype(np.int64), np.maximum(low, high).astype(np.int64)
