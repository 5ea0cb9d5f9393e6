"""Calibrate a head: its temperature, conformal age intervals, and how familiar a face is.

Every training face was predicted by a network that never saw its subject. These predictions calibrate the
head without a further split.

An interval that covers 90 % of the faces like those of training covers fewer of others. Which faces these
are shows in the embedding, before the head: its features are far from their means over the training faces.
The methods that were compared are in docs/results/shift.md (`python -m benchmarks.accuracy --parts shift`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from agegender.labels import AGE_GROUPS, GROUP_OF_YEAR, MAX_AGE, YEARS, age_groups_of

Array = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.floating]

# Years by which each end of a 90 % interval moves at familiarity 0; none from `FAMILIAR` on, linear between.
_MOST_YEARS: Final = 3.0
FAMILIAR: Final = 0.5
_SMALLEST_STD: Final = 0.1  # of the features' median
_LEAST_STD: Final = 1e-4  # of any feature, for the case that most features are constant
_LARGEST: Final = 60_000  # distance; files have float16
_STEPS: Final = 100
_BLOCK: Final = 2048  # faces at once
_MEAN, _STD, _DISTANCES = "familiarity.mean", "familiarity.std", "familiarity.distances"

COVERAGES: Final = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))  # 0.50 to 0.99
_SMALLEST: Final = 1e-12
# Start and end of each age group; a year extends half a year on both sides.
GROUP_EDGES: Final = tuple(
    (years[0] - 0.5, years[-1] + 0.5)
    for years in (np.flatnonzero(group == GROUP_OF_YEAR) for group in range(len(AGE_GROUPS)))
)


def tempered(probabilities: Numbers, temperature: float) -> Numbers:
    """Return probabilities [..., classes] to the power of 1/temperature, normalised (arXiv 1706.04599)."""
    if temperature == 1:
        return probabilities
    logits = np.log(np.maximum(probabilities, _SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def interval_nll(
    probabilities: Numbers, low: npt.NDArray[np.integer], high: npt.NDArray[np.integer]
) -> float:
    """Return the mean negative log-likelihood, in nats, of a class from low to high (inclusive).

    probabilities : [faces, classes]; low, high : [faces], class indices.
    """
    cumulative = np.concatenate(
        [np.zeros((len(probabilities), 1)), np.cumsum(probabilities, axis=1, dtype=np.float64)], axis=1
    )
    rows = np.arange(len(probabilities))
    mass = cumulative[rows, high + 1] - cumulative[rows, low]
    return float(-np.log(np.maximum(mass, _SMALLEST)).mean())


def fit_temperature(
    probabilities: Numbers, low: npt.NDArray[np.integer], high: npt.NDArray[np.integer]
) -> float:
    """Return the temperature in [0.2, 5] that minimises `interval_nll`, by golden-section search on its log.

    Without faces it is 1, which changes nothing.
    """
    if len(probabilities) == 0:
        return 1.0
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


def year_quantiles(year_probabilities: Numbers, level: float) -> Numbers:
    """Return the `level` quantile, in years, of each distribution [faces, 101].

    Year y extends from y - 0.5 to y + 0.5 with uniform mass, so the quantiles of a symmetric distribution are
    symmetric about its mean.
    """
    cumulative = np.cumsum(year_probabilities, axis=1, dtype=np.float64)
    cumulative /= cumulative[:, -1:]
    rows = np.arange(len(cumulative))
    year = np.minimum((cumulative < level).sum(axis=1), YEARS - 1)
    before = np.where(year > 0, cumulative[rows, year - 1], 0.0)
    mass = np.maximum(cumulative[rows, year] - before, _SMALLEST)
    return np.asarray(year - 0.5 + np.clip((level - before) / mass, 0, 1))


_Years = Annotated[float, Field(ge=-2 * MAX_AGE, le=2 * MAX_AGE, allow_inf_nan=False)]
_GroupRow = Annotated[tuple[_Years, ...], Field(min_length=len(COVERAGES), max_length=len(COVERAGES))]


class ConformalIntervals(BaseModel):
    """Conformalised quantile intervals (CQR, arXiv 1905.03222), Mondrian by true age group.

    An age y is in a face's interval if it is in the head's central interval, extended on both sides by
    `widening[group of y][coverage]` years. That extension is the finite-sample quantile of the out-of-fold
    scores of the group's faces, so each age group has the stated coverage, not only all faces together
    (label-conditional conformal prediction, Vovk 2012, arXiv 1209.2673). The interval is the hull of these
    ages and of the mean. With out-of-fold scores this is the cross-conformal CV+ of arXiv 1905.02928.
    """

    model_config = ConfigDict(frozen=True)

    widening: tuple[_GroupRow, ...] = Field(
        description="[8 age groups][50 coverages], years",
        min_length=len(AGE_GROUPS),
        max_length=len(AGE_GROUPS),
    )
    faces: tuple[int, ...] = Field(description="calibration faces in each group")

    @classmethod
    def fit(
        cls,
        year_probabilities: Numbers,
        low: Numbers,
        high: Numbers,
        smallest_group: int = 100,
        familiarity: Numbers | None = None,
    ) -> "ConformalIntervals":
        """Fit to out-of-fold distributions [faces, 101] and age labels low to high in years [faces].

        A label that is an interval counts as covered if the predicted interval overlaps it. A group of fewer
        than `smallest_group` faces uses the scores of all faces.

        familiarity : of each face, if the stated coverage includes the years that it adds.
        """
        groups = age_groups_of((low + high) / 2)
        counts = np.bincount(groups, minlength=len(AGE_GROUPS))
        table = np.zeros((len(AGE_GROUPS), len(COVERAGES)))
        for column, coverage in enumerate(COVERAGES):
            lower, upper = _central_interval(year_probabilities, coverage)
            scores = np.maximum(lower - high, low - upper)
            if familiarity is not None:
                scores = scores - added_years(familiarity, coverage)
            for group in range(len(AGE_GROUPS)):
                of_group = scores if counts[group] < smallest_group else scores[groups == group]
                table[group, column] = _conformal_quantile(of_group, coverage)
        return cls(
            widening=tuple(tuple(round(float(value), 4) for value in row) for row in table),
            faces=tuple(int(count) for count in counts),
        )

    def intervals(self, year_probabilities: Numbers, coverage: float) -> tuple[Numbers, Numbers]:
        """Return the low and high ends in years [faces], within 0 to 100, for one of `COVERAGES`.

        Raises ValueError for any other coverage.
        """
        column = COVERAGES.index(round(coverage, 2))
        lower, upper = _central_interval(year_probabilities, coverage)
        low = high = mean_years(year_probabilities)
        for group, (first, last) in enumerate(GROUP_EDGES):
            own_low = np.maximum(lower - self.widening[group][column], first)
            own_high = np.minimum(upper + self.widening[group][column], last)
            fits = own_low <= own_high
            low = np.where(fits, np.minimum(low, own_low), low)
            high = np.where(fits, np.maximum(high, own_high), high)
        return np.clip(low, 0, MAX_AGE), np.clip(high, 0, MAX_AGE)


def mean_years(year_probabilities: Numbers) -> Numbers:
    """Return the expected age in years of each distribution [..., 101]."""
    return np.asarray(year_probabilities @ np.arange(YEARS, dtype=year_probabilities.dtype))


def _central_interval(year_probabilities: Numbers, coverage: float) -> tuple[Numbers, Numbers]:
    tail = (1 - coverage) / 2
    return year_quantiles(year_probabilities, tail), year_quantiles(year_probabilities, 1 - tail)


def _conformal_quantile(scores: Numbers, coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest score, or a hundred years if n is too small for it."""
    rank = int(np.ceil((len(scores) + 1) * coverage))
    if rank > len(scores):
        return float(MAX_AGE)
    return float(np.partition(scores, rank - 1)[rank - 1])


def floored_std(std: Numbers) -> Array:
    """Return the standard deviations of features [dimension], at least a tenth of their median.

    A feature behind a ReLU may be 0 in all training faces, or in nearly all. Divided by a standard deviation
    near 0, a slight activation in a new face would outweigh all other features.
    """
    floor = max(_SMALLEST_STD * float(np.median(std)), _LEAST_STD)
    return np.asarray(np.maximum(std, floor), np.float32)


@dataclass(frozen=True)
class Familiarity:
    """Statistics of the training embeddings.

    The distance of a face is the mean square of its standardised features: a Mahalanobis distance with a
    diagonal covariance. Familiarity is the share of training faces that are at least as far, a conformal
    p-value: uniform from 0 to 1 on faces like these, near 0 on others.

    Attributes
    ----------
    mean, std : of the training embeddings [dimension].
    distances : quantiles 0 %, 1 %, … 100 % of the training faces' distances [101].
    """

    mean: Array
    std: Array
    distances: Array

    @classmethod
    def fit(cls, embeddings: Array, rows: npt.NDArray[np.integer]) -> Self:
        """Fit to the training faces at `rows`, at least one, of embeddings [faces, dimension].

        Faces are read in blocks, because the embeddings may be a mapped file that is larger than memory.
        """
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
        mean = sum(embeddings[block].sum(axis=0, dtype=np.float64) for block in blocks) / len(rows)
        squares = sum(np.square(embeddings[block] - mean).sum(axis=0) for block in blocks)
        fitted = cls(
            np.asarray(mean, np.float32), floored_std(np.sqrt(squares / len(rows))), np.zeros(0, np.float32)
        )
        distances = np.concatenate([fitted._distances_of(embeddings[block]) for block in blocks])
        quantiles = np.quantile(distances, np.linspace(0, 1, _STEPS + 1))
        return cls(fitted.mean, fitted.std, np.minimum(quantiles, _LARGEST).astype(np.float32))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Numbers]) -> Self:
        """Read the tensors that a head's file has; their shapes must be those of `shapes`.

        Raises ValueError if they cannot be such statistics.
        """
        mean, std, distances = (np.asarray(tensors[name], np.float32) for name in (_MEAN, _STD, _DISTANCES))
        if not all(np.isfinite(array).all() for array in (mean, std, distances)):
            raise ValueError("a tensor of familiarity contains NaN or infinite values")
        if not (std > 0).all() or (np.diff(distances) < 0).any():
            raise ValueError("familiarity needs positive standard deviations and ascending distances")
        return cls(mean, std, distances)

    @property
    def tensors(self) -> dict[str, Array]:
        return {_MEAN: self.mean, _STD: self.std, _DISTANCES: self.distances}

    @staticmethod
    def shapes(dimension: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors in head.safetensors, by name."""
        return {_MEAN: (dimension,), _STD: (dimension,), _DISTANCES: (_STEPS + 1,)}

    def of(self, embeddings: Array) -> Numbers:
        """Return the familiarity [faces], 0 to 1, of embeddings [faces, dimension]."""
        levels = np.linspace(1, 0, _STEPS + 1)
        return np.asarray(np.interp(self._distances_of(embeddings), self.distances, levels))

    def _distances_of(self, embeddings: Array) -> Numbers:
        blocks = [
            np.square((embeddings[start : start + _BLOCK] - self.mean) / self.std).mean(axis=1)
            for start in range(0, len(embeddings), _BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def added_years(familiarity: Numbers, coverage: float) -> Numbers:
    """Return the years by which each end of an age interval moves outwards [faces].

    Narrower intervals gain less, in the ratio of a normal distribution's intervals.
    """
    ratio = NormalDist().inv_cdf((1 + coverage) / 2) / NormalDist().inv_cdf(0.95)
    strange = np.clip((FAMILIAR - np.asarray(familiarity)) / FAMILIAR, 0, 1)
    return np.asarray(_MOST_YEARS * ratio * strange)


def extended(
    low: Numbers, high: Numbers, familiarity: Familiarity | None, embeddings: Array, coverage: float
) -> tuple[Numbers, Numbers]:
    """Move the ends of age intervals [faces] outwards where a face is unlike the training faces."""
    if familiarity is None:
        return low, high
    more = added_years(familiarity.of(embeddings), coverage)
    return np.clip(low - more, 0, MAX_AGE), np.clip(high + more, 0, MAX_AGE)
