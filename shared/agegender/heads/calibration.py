"""Calibrate a head on out-of-fold predictions: temperature, and conformal age intervals.

Every training face was predicted by a network that never saw its subject; those predictions say how far
the head may be trusted, without a further split.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from agegender.labels import AGE_GROUPS, MAX_AGE, YEARS, age_groups_of

Array = npt.NDArray[np.floating]

COVERAGES: Final = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))  # 0.50 to 0.99
_SMALLEST: Final = 1e-12


def tempered(probabilities: Array, temperature: float) -> Array:
    """Probabilities [..., classes] raised to 1/temperature and normalised (arXiv 1706.04599)."""
    if temperature == 1:
        return probabilities
    logits = np.log(np.maximum(probabilities, _SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def interval_nll(probabilities: Array, low: npt.NDArray[np.integer], high: npt.NDArray[np.integer]) -> float:
    """Mean negative log-likelihood, in nats, of the class being one of low..high (both included).

    probabilities : [faces, classes]; low, high : [faces], class indices.
    """
    cumulative = np.concatenate(
        [np.zeros((len(probabilities), 1)), np.cumsum(probabilities, axis=1, dtype=np.float64)], axis=1
    )
    rows = np.arange(len(probabilities))
    mass = cumulative[rows, high + 1] - cumulative[rows, low]
    return float(-np.log(np.maximum(mass, _SMALLEST)).mean())


def fit_temperature(
    probabilities: Array, low: npt.NDArray[np.integer], high: npt.NDArray[np.integer]
) -> float:
    """The temperature in [0.2, 5] that minimises `interval_nll`, by golden-section search on its log."""
    ratio = (np.sqrt(5) - 1) / 2
    left, right = np.log(0.2), np.log(5.0)
    for _ in range(40):
        span = ratio * (right - left)
        inner_left, inner_right = right - span, left + span
        if interval_nll(tempered(probabilities, float(np.exp(inner_left))), low, high) < interval_nll(
            tempered(probabilities, float(np.exp(inner_right))), low, high
        ):
            right = inner_right
        else:
            left = inner_left
    return float(np.exp((left + right) / 2))


def year_quantiles(year_probabilities: Array, level: float) -> Array:
    """The `level` quantile in years of each distribution [faces, 101]; a year's mass lies evenly on it.

    Year y spans y - 0.5 to y + 0.5, so that the quantiles of a symmetric distribution lie about its mean.
    """
    cumulative = np.cumsum(year_probabilities, axis=1, dtype=np.float64)
    cumulative /= cumulative[:, -1:]
    rows = np.arange(len(cumulative))
    year = np.minimum((cumulative < level).sum(axis=1), YEARS - 1)
    before = np.where(year > 0, cumulative[rows, year - 1], 0.0)
    mass = np.maximum(cumulative[rows, year] - before, _SMALLEST)
    return np.asarray(year - 0.5 + np.clip((level - before) / mass, 0, 1))


class ConformalIntervals(BaseModel):
    """Conformalised quantile intervals (CQR, arXiv 1905.03222), Mondrian by predicted age group.

    `widening[group][coverage]` is added, in years, on both sides of the head's own central interval. It is
    the finite-sample quantile of the out-of-fold scores of the faces whose predicted mean lies in that
    group. With out-of-fold scores this is the cross-conformal CV+ of arXiv 1905.02928.
    """

    model_config = ConfigDict(frozen=True)

    widening: tuple[tuple[float, ...], ...] = Field(description="[8 age groups][50 coverages], years")
    faces: tuple[int, ...] = Field(description="calibration faces in each group")

    @classmethod
    def fit(
        cls,
        year_probabilities: Array,
        low: Array,
        high: Array,
        smallest_group: int = 100,
    ) -> "ConformalIntervals":
        """From out-of-fold distributions [faces, 101] and age labels low..high in years [faces].

        A label that is itself an interval counts as covered when the answer touches it. A predicted group
        of fewer than `smallest_group` faces takes the scores of all faces.
        """
        groups = age_groups_of(mean_years(year_probabilities))
        counts = np.bincount(groups, minlength=len(AGE_GROUPS))
        table = np.zeros((len(AGE_GROUPS), len(COVERAGES)))
        for column, coverage in enumerate(COVERAGES):
            lower, upper = _central_interval(year_probabilities, coverage)
            scores = np.maximum(lower - high, low - upper)
            for group in range(len(AGE_GROUPS)):
                of_group = scores if counts[group] < smallest_group else scores[groups == group]
                table[group, column] = _conformal_quantile(of_group, coverage)
        return cls(
            widening=tuple(tuple(round(float(value), 4) for value in row) for row in table),
            faces=tuple(int(count) for count in counts),
        )

    def intervals(self, year_probabilities: Array, coverage: float) -> tuple[Array, Array]:
        """Low and high end in years [faces], within 0 to 100, for one of `COVERAGES`.

        Raises ValueError for any other coverage.
        """
        column = COVERAGES.index(round(coverage, 2))
        lower, upper = _central_interval(year_probabilities, coverage)
        groups = age_groups_of(mean_years(year_probabilities))
        widening = np.array(self.widening)[groups, column]
        middle = (lower + upper) / 2  # a narrowing never turns an interval inside out
        low = np.clip(np.minimum(lower - widening, middle), 0, MAX_AGE)
        high = np.clip(np.maximum(upper + widening, middle), 0, MAX_AGE)
        return low, high


def mean_years(year_probabilities: Array) -> Array:
    """Expected age in years of each distribution [..., 101]."""
    return np.asarray(year_probabilities @ np.arange(YEARS, dtype=year_probabilities.dtype))


def _central_interval(year_probabilities: Array, coverage: float) -> tuple[Array, Array]:
    tail = (1 - coverage) / 2
    return year_quantiles(year_probabilities, tail), year_quantiles(year_probabilities, 1 - tail)


def _conformal_quantile(scores: Array, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest score; a hundred years where n is too small to promise it."""
    rank = int(np.ceil((len(scores) + 1) * coverage))
    if rank > len(scores):
        return float(MAX_AGE)
    return float(np.partition(scores, rank - 1)[rank - 1])
