"""Widen the age interval of a face of low quality, so that it still holds the stated share of ages."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from agegender.heads.answers import AgeAnswer
from agegender.labels import MAX_AGE
from agegender.predictions import QualityReason

_Table = tuple[tuple[float, float], ...]

# What a measure leaves of the score → factor on the interval's half-width; linear in between. Any table will
# do that rises in its first column, falls in the factor and ends at (1, 1). Measured by
# `python -m benchmarks.quality_intervals`. A head's own distribution widens with most damage, but not in poor
# light, where heads are wrong without being less certain.
REASON_FACTORS: Final[Mapping[QualityReason, _Table]] = {
    "cut": ((0.0, 1.15), (0.75, 1.05), (1.0, 1.0)),
    "tight": ((0.0, 1.25), (0.6, 1.2), (0.75, 1.1), (1.0, 1.0)),
    "covered": ((0.0, 1.1), (0.25, 1.1), (0.75, 1.05), (1.0, 1.0)),
    "dark": ((0.0, 2.4), (0.03, 2.2), (0.17, 1.55), (0.45, 1.15), (0.75, 1.0), (1.0, 1.0)),
    "overexposed": ((0.0, 2.6), (0.03, 2.5), (0.22, 1.4), (0.53, 1.15), (0.75, 1.05), (1.0, 1.0)),
}
# The same for the product of what all other measures leave.
FACTORS: Final[_Table] = ((0.0, 1.5), (0.05, 1.1), (0.25, 1.06), (0.75, 1.05), (1.0, 1.0))


def widening_factor(left: Mapping[QualityReason, float]) -> float:
    """Return the largest factor that the measures ask for; at least 1, and never less for less left.

    left : for each reason, how much of the score its measure leaves, 0 to 1.
    """
    others = math.prod(value for reason, value in left.items() if reason not in REASON_FACTORS)
    factors = [_interpolated(left.get(reason, 1.0), table) for reason, table in REASON_FACTORS.items()]
    return round(max(_interpolated(others, FACTORS), *factors), 3)


def _interpolated(value: float, table: _Table) -> float:
    values, factors = zip(*table, strict=True)
    return float(np.interp(value, values, factors))


def widened(age: AgeAnswer, factor: float) -> AgeAnswer:
    """The same answer with its interval `factor` times as wide about its middle, within 0 to 100 years."""
    low, high = age.interval
    middle, half = (low + high) / 2, factor * (high - low) / 2
    interval = (round(max(0.0, min(low, middle - half)), 1), round(min(MAX_AGE, max(high, middle + half)), 1))
    return age.model_copy(update={"interval": interval})
