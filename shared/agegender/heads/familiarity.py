"""Familiarity: how like the training faces a face is, and how many years its age interval gains.

An interval that covers 90 % of the faces like those of training covers fewer of others. Which faces these
are shows in the embedding, before the head: its features are far from their means over the training faces.
The methods that were compared are in docs/results/shift.md (`python -m benchmarks.accuracy --parts shift`).
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from agegender.labels import MAX_AGE

Array = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.floating]

# Years by which each end of a 90 % interval moves at familiarity 0; none from `FAMILIAR` on, linear between.
_MOST_YEARS: Final = 3.0
FAMILIAR: Final = 0.5
_SMALLEST_STD: Final = 0.1  # of the features' median; hardly any training face activates such a feature
_LARGEST: Final = 60_000  # distance; files have float16
_STEPS: Final = 100
_BLOCK: Final = 2048  # faces at once
_MEAN, _STD, _DISTANCES = "familiarity.mean", "familiarity.std", "familiarity.distances"


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
        std = np.sqrt(squares / len(rows))
        floor = max(_SMALLEST_STD * float(np.median(std)), 1e-4)
        fitted = cls(
            np.asarray(mean, np.float32),
            np.asarray(np.maximum(std, floor), np.float32),
            np.zeros(0, np.float32),
        )
        distances = np.concatenate([fitted._distances_of(embeddings[block]) for block in blocks])
        quantiles = np.quantile(distances, np.linspace(0, 1, _STEPS + 1))
        return cls(fitted.mean, fitted.std, np.minimum(quantiles, _LARGEST).astype(np.float32))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> Self:
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
