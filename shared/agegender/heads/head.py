"""A head: an ensemble of networks for one task and space, with its calibration."""

from collections.abc import Callable
from concurrent.futures import CancelledError
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agegender.heads.calibration import ConformalIntervals, tempered
from agegender.heads.familiarity import Familiarity, extended
from agegender.heads.networks import Architecture, Layer, bank_logits, folded, softmax, tensor_shapes
from agegender.labels import AGE_GROUPS, GENDER_NAMES, YEARS
from agegender.spaces import Space

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]

MAX_WIDTH = 2**20  # numbers in memory per face; 4 MiB


class Task(StrEnum):
    """The label that a head predicts."""

    AGE = "age"
    GENDER = "gender"


class Classes(StrEnum):
    """The classes of a head's outputs."""

    YEARS = "years"  # 0 to 100
    GROUPS = "groups"  # Adience's eight groups
    GENDERS = "genders"  # female, male

    @property
    def outputs(self) -> int:
        return {"years": YEARS, "groups": len(AGE_GROUPS), "genders": len(GENDER_NAMES)}[self.value]


class HeadManifest(BaseModel):
    """head.json: everything about a head except its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(2, ge=1, le=2, description="1: of releases up to 0.1, without familiarity")
    task: Task
    space: Space
    version: str
    classes: Classes
    members: int = Field(ge=1, le=1024)
    architecture: Architecture
    temperature: float = Field(gt=0, le=100, allow_inf_nan=False)
    conformal: ConformalIntervals | None = None
    familiarity: bool = Field(False, description="whether head.safetensors has the tensors of familiarity")
    weights_sha256: str
    card: dict[str, Any] = Field(default_factory=dict, description="data, protocol, metrics, licence, limits")

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.architecture.layers(self.space.dimension, self.classes.outputs)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the networks' tensors in head.safetensors, by name."""
        return tensor_shapes(self.layers, self.members, self.space.dimension)

    @model_validator(mode="after")
    def _answers_within_bounds(self) -> Self:
        widest = max(shape[-1] for shape in self.shapes.values())
        if self.members * widest > MAX_WIDTH:
            raise ValueError(f"{self.members} members of width {widest} need too much memory per face")
        return self


class Head:
    """Predicts calibrated class probabilities for embeddings of its space.

    Parameters
    ----------
    manifest : head.json.
    tensors : content of head.safetensors as float32, with the names and shapes of `tensor_shapes`, and those
        of `Familiarity.shapes` if the manifest states that it has them.
    """

    def __init__(self, manifest: HeadManifest, tensors: dict[str, Array]) -> None:
        self.manifest = manifest
        self._layers = manifest.layers
        expected = manifest.shapes
        for name, shape in expected.items():
            if name not in tensors or tensors[name].shape != shape:
                given = tensors[name].shape if name in tensors else "absent"
                raise ValueError(f"tensor {name} has shape {given}; expected {shape}")
            if not np.isfinite(tensors[name]).all():
                raise ValueError(f"tensor {name} contains NaN or infinite values")
        self._tensors = {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in expected}
        self._folded = folded(self._layers, self._tensors)
        self._familiarity = Familiarity.from_tensors(tensors) if manifest.familiarity else None

    @property
    def tensors(self) -> dict[str, Array]:
        """Return the networks' tensors and the statistics of familiarity, as `save_head` takes them."""
        return {**self._tensors, **({} if self._familiarity is None else self._familiarity.tensors)}

    def familiarity(self, embeddings: Array) -> Floats | None:
        """Return how like the training faces each face is [faces], 0 to 1.

        None for a head that was saved without these statistics, as those of releases up to 0.1.
        """
        return None if self._familiarity is None else self._familiarity.of(embeddings)

    def intervals(self, years: Array, embeddings: Array, coverage: float) -> tuple[Floats, Floats]:
        """Return the ends of the age intervals [faces] in years, as served for faces of good quality.

        years : this head's distributions over years [faces, 101].

        Raises ValueError for a head without conformal intervals.
        """
        if self.manifest.conformal is None:
            raise ValueError(f"head {self.manifest.version} has no conformal intervals")
        ends = self.manifest.conformal.intervals(years, coverage)
        return extended(*ends, self._familiarity, embeddings, coverage)

    def probabilities(self, embeddings: Array) -> Array:
        """Return the calibrated mean over the members, a deep ensemble (arXiv 1612.01474).

        embeddings : [faces, dimension]. Returns [faces, classes].
        """
        logits = (
            bank_logits(self._layers, self._tensors, embeddings)
            if self._folded is None
            else self._folded.logits(embeddings)
        )
        return self._calibrated(softmax(logits).mean(axis=0))

    def probabilities_mc_dropout(
        self, embeddings: Array, passes: int, seed: int, *, unwanted: Callable[[], bool] = lambda: False
    ) -> Array:
        """Return the same by Monte-Carlo dropout, with `passes` draws in total, divided among the members.

        unwanted : called before each round; if it returns True, `concurrent.futures.CancelledError` is
        raised.
        """
        draws = np.random.default_rng(seed)
        rounds = max(1, -(-passes // self.manifest.members))
        total = np.zeros((len(embeddings), self.manifest.classes.outputs), dtype=np.float64)
        for _ in range(rounds):
            if unwanted():
                raise CancelledError
            total += softmax(bank_logits(self._layers, self._tensors, embeddings, draws)).mean(axis=0)
        return self._calibrated(np.asarray(total / rounds, dtype=np.float32))

    def _calibrated(self, probabilities: Floats) -> Array:
        return np.asarray(tempered(probabilities, self.manifest.temperature), dtype=np.float32)


def over_years(probabilities: Array, classes: Classes) -> Array:
    """Return an age head's probabilities [faces, classes] over years [faces, 101], groups spread evenly."""
    if classes is Classes.YEARS:
        return probabilities
    spread = np.zeros((len(AGE_GROUPS), YEARS), dtype=np.float32)
    for group, (low, high) in enumerate(AGE_GROUPS):
        spread[group, low : high + 1] = 1 / (high - low + 1)
    return np.asarray(probabilities @ spread)
