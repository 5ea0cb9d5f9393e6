"""A face of low quality gets a wider age interval, not a confident guess."""

from typing import Final

import numpy as np
from agegender.heads.answers import AgeAnswer
from agegender.labels import MAX_AGE

# Quality score → factor on the interval's half-width; linear in between. Any table will do that rises in the
# score, falls in the factor and ends at (1, 1). Measured by `python -m benchmarks.quality_intervals`.
FACTORS: Final = ((0.0, 1.5), (0.05, 1.1), (0.25, 1.06), (0.75, 1.05), (1.0, 1.0))


def widening_factor(score: float) -> float:
    """At least 1, and never less for a lower quality score."""
    scores, factors = zip(*FACTORS, strict=True)
    return round(float(np.interp(score, scores, factors)), 3)


def widened(age: AgeAnswer, factor: float) -> AgeAnswer:
    """The same answer with its interval `factor` times as wide about its middle, within 0 to 100 years."""
    low, high = age.interval
    middle, half = (low + high) / 2, factor * (high - low) / 2
    interval = (round(max(0.0, min(low, middle - half)), 1), round(min(MAX_AGE, max(high, middle + half)), 1))
    return age.model_copy(update={"interval": interval})
