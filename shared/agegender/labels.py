"""Labels of a face: an age interval in years and a gender.

An exact age is an interval of zero width, an Adience age group a wide one. With both as intervals, one head
can learn from data sets of both types.
"""

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_AGE: Final = 100
YEARS: Final = MAX_AGE + 1

# The eight groups of Adience (Eidinger, Enbar and Hassner 2014, doi:10.1109/TIFS.2014.2359646).
AGE_GROUPS: Final = ((0, 2), (4, 6), (8, 12), (15, 20), (25, 32), (38, 43), (48, 53), (60, 100))
AGE_GROUP_NAMES: Final = tuple(f"{low}-{high}" for low, high in AGE_GROUPS)


class Gender(IntEnum):
    """Gender as data sets label it: presentation in an image, not identity."""

    UNKNOWN = -1
    FEMALE = 0
    MALE = 1


GENDER_NAMES: Final = ("female", "male")


def _group_of_each_year() -> npt.NDArray[np.int64]:
    """Return the group [101] of each year: the nearest group, the younger of two equally near."""
    years = np.arange(YEARS)[:, None]
    lows, highs = np.array(AGE_GROUPS).T
    distance = np.maximum(np.maximum(lows - years, years - highs), 0)
    return np.asarray(np.argmin(distance, axis=1))


GROUP_OF_YEAR: Final = _group_of_each_year()


def age_groups_of(ages: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the index into `AGE_GROUPS` of each age in years, of any shape; ages are rounded down."""
    years = np.clip(np.floor(np.asarray(ages, dtype=np.float64)), 0, MAX_AGE).astype(np.int64)
    return np.asarray(GROUP_OF_YEAR[years])


def group_probabilities(year_probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Sum a distribution over years [..., 101] into one over the eight groups [..., 8]."""
    membership = np.eye(len(AGE_GROUPS), dtype=year_probabilities.dtype)[GROUP_OF_YEAR]
    return np.asarray(year_probabilities @ membership)
