"""A head: an ensemble of networks for one task and space, with its calibration, and its files on disk.

head.json and head.safetensors are in `models/<task>/<space>/<version>/`. `current.json` in
`models/<task>/<space>/` names the version that is served and those that were served before. A promotion adds
the served version to these, and a rollback takes the last one from them.
"""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as safetensors_bytes

from agegender.files import FileLock, read_bytes, read_model, write_bytes, write_json
from agegender.heads.calibration import ConformalIntervals, Familiarity, extended, tempered
from agegender.heads.networks import Architecture, Layer, bank_logits, folded, softmax, tensor_shapes
from agegender.labels import AGE_GROUPS, GENDER_NAMES, YEARS
from agegender.spaces import NAME, Space

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]
Weights = npt.NDArray[np.float16 | np.float32]

MAX_WIDTH = 2**20  # numbers in memory per face; 4 MiB
MAX_WEIGHT_BYTES = 256 * 1024 * 1024
_MAX_HEADER_BYTES = 1024 * 1024
_GOLDEN_EMBEDDING, _GOLDEN_PROBABILITIES = "golden.embedding", "golden.probabilities"
_MOST_EARLIER = 30  # versions that current.json remembers in addition to the previous one
_GOLDEN_TOLERANCE = 1e-3  # storage as float16 and another BLAS change probabilities by less
# Earlier releases stored 1e-6 for a feature that was 0 in all training faces. A slight activation in a new
# face outweighed all other features.
_DEAD_STD, _IGNORED_STD = 2e-6, np.float32(6e4)  # the second is nearly the largest of float16


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
    tensors : content of head.safetensors, float16 or float32, with the names and shapes of `tensor_shapes`,
        and those of `Familiarity.shapes` if the manifest states that it has them. They are kept as given.
    """

    def __init__(self, manifest: HeadManifest, tensors: Mapping[str, Weights]) -> None:
        self.manifest = manifest
        self._layers = manifest.layers
        expected = manifest.shapes
        for name, shape in expected.items():
            if name not in tensors or tensors[name].shape != shape:
                given = tensors[name].shape if name in tensors else "absent"
                raise ValueError(f"tensor {name} has shape {given}; expected {shape}")
            if not np.isfinite(tensors[name]).all():
                raise ValueError(f"tensor {name} contains NaN or infinite values")
        self._tensors = {name: np.ascontiguousarray(tensors[name]) for name in expected}
        self._familiarity = Familiarity.from_tensors(tensors) if manifest.familiarity else None

    @property
    def tensors(self) -> dict[str, Array]:
        """Return the networks' tensors and the statistics of familiarity, as `save_head` takes them."""
        return {**self._floats, **({} if self._familiarity is None else self._familiarity.tensors)}

    @property
    def _floats(self) -> dict[str, Array]:
        return {name: tensor.astype(np.float32, copy=False) for name, tensor in self._tensors.items()}

    @cached_property
    def _logits(self) -> Callable[[Array], Array]:
        """The forward pass, made when first needed: it is twice as large as the file."""
        tensors = self._floats
        bank = folded(self._layers, tensors)
        return partial(bank_logits, self._layers, tensors) if bank is None else bank.logits

    @property
    def prepared(self) -> bool:
        """Return whether `prepare` has been called, or a prediction made."""
        return "_logits" in self.__dict__

    def prepare(self) -> None:
        """Do now what else the first prediction would do, for some 0.1 s."""
        _ = self._logits

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
        return self._calibrated(softmax(self._logits(embeddings)).mean(axis=0))

    def probabilities_as_saved(self, embeddings: Array) -> Array:
        """Return the same up to rounding, slower, and without keeping anything in memory."""
        logits = bank_logits(self._layers, self._floats, embeddings)
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
        tensors = self._floats
        for _ in range(rounds):
            if unwanted():
                raise CancelledError
            total += softmax(bank_logits(self._layers, tensors, embeddings, draws)).mean(axis=0)
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


class BadHead(ValueError):
    """A head whose files are missing, damaged or inconsistent."""


class CurrentHead(BaseModel):
    """current.json.

    version : the version that is served.
    previous : the version that a rollback serves; None if nothing was served before.
    earlier : versions that further rollbacks serve, newest first. Release 0.1.0 wrote none.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    previous: str | None = None
    earlier: tuple[str, ...] = ()

    @property
    def versions(self) -> tuple[str, ...]:
        """Return the served version, then those that were served before, newest first."""
        return (self.version, *([self.previous] if self.previous else []), *self.earlier)


class _StatedTensor(BaseModel):
    """One entry of a safetensors header."""

    model_config = ConfigDict(strict=True, extra="ignore")

    dtype: Literal["F16", "F32"]
    shape: tuple[int, ...]


_HEADER = TypeAdapter(dict[str, _StatedTensor])


def heads_directory(models: Path, task: Task, space: Space) -> Path:
    return models / task.value / space.id


def save_head(directory: Path, manifest: HeadManifest, tensors: dict[str, npt.NDArray[np.float32]]) -> Head:
    """Write a head, weights as float16, with a golden embedding that verifies it after loading.

    The hash in `manifest` is set here. head.json is written last; a directory without it is not a head.
    """
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    served = Head(manifest, {name: half.astype(np.float32) for name, half in halves.items()})
    golden = _golden_embedding(manifest.space.dimension)
    content = safetensors_bytes(
        {
            **{name: np.ascontiguousarray(half) for name, half in halves.items()},
            _GOLDEN_EMBEDDING: golden,
            _GOLDEN_PROBABILITIES: served.probabilities(golden),
        }
    )
    manifest = manifest.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    write_bytes(directory / "head.safetensors", content)
    write_json(directory / "head.json", manifest.model_dump(mode="json"))
    return load_head(directory)


def load_head(directory: Path) -> Head:
    """Read a head and verify its hash, shapes, finite values, and prediction for its golden embedding.

    No tensor is allocated before the file's header has been compared with head.json. Raises `BadHead` with
    the reason. Features that no training face activated are ignored.
    """
    try:
        manifest = read_model(directory / "head.json", HeadManifest)
        weights = directory / "head.safetensors"
        content = read_bytes(weights, MAX_WEIGHT_BYTES)
        if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
            raise BadHead(f"{weights} does not have the hash that head.json states")
        _require_shapes(content, _expected_shapes(manifest))
        tensors = load_safetensors(content)
        golden, expected = tensors.pop(_GOLDEN_EMBEDDING), tensors.pop(_GOLDEN_PROBABILITIES)
        head = Head(manifest, tensors)
        predicted = head.probabilities_as_saved(golden)
    except BadHead:
        raise
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise BadHead(f"{directory}: {error}") from error
    if predicted.shape != expected.shape or not np.allclose(predicted, expected, atol=_GOLDEN_TOLERANCE):
        raise BadHead(
            f"{directory} predicts other probabilities for its golden embedding than when it was saved"
        )
    alive = without_dead_features(tensors)
    return head if alive is tensors else Head(manifest, alive)


def without_dead_features(tensors: dict[str, Array]) -> dict[str, Array]:
    """Return the tensors of a head such that it ignores features that no training face activated."""
    std = tensors["input.std"]
    if not (is_dead := std <= _DEAD_STD).any():
        return tensors
    return {**tensors, "input.std": np.where(is_dead, _IGNORED_STD, std)}


def _expected_shapes(manifest: HeadManifest) -> dict[str, tuple[int, ...]]:
    dimension = manifest.space.dimension
    return {
        **manifest.shapes,
        **(Familiarity.shapes(dimension) if manifest.familiarity else {}),
        _GOLDEN_EMBEDDING: (1, dimension),
        _GOLDEN_PROBABILITIES: (1, manifest.classes.outputs),
    }


def _require_shapes(content: bytes, expected: dict[str, tuple[int, ...]]) -> None:
    """Compare a safetensors header with the expected shapes. safetensors itself compares it with the file."""
    length = int.from_bytes(content[:8], "little")
    if length > min(_MAX_HEADER_BYTES, len(content) - 8):
        raise ValueError(f"head.safetensors states a header of {length} bytes")
    stated = {name: tensor.shape for name, tensor in _HEADER.validate_json(content[8 : 8 + length]).items()}
    for name in sorted(stated.keys() | expected.keys()):
        shape, given = expected.get(name, "absent"), stated.get(name, "absent")
        if shape != given:
            raise ValueError(f"tensor {name[:100]} has shape {given}; expected {shape}")


def read_current(directory: Path) -> CurrentHead | None:
    """Return which version in `models/<task>/<space>/` is served; None if none was promoted."""
    path = directory / "current.json"
    try:
        current = read_model(path, CurrentHead)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadHead(f"{path}: {error}") from error
    for version in current.versions:
        if not NAME.fullmatch(version):
            raise BadHead(f"{path} names {version!r}, which is not a valid version")
    return current


def set_current(directory: Path, version: str, instead_of: str | None = None) -> CurrentHead:
    """Serve `version` from now on, and remember the version served until now as the previous one.

    instead_of : if this version is served, it is not remembered.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with current_lock(directory):
        before = read_current(directory)
        if before is None:
            return _write_current(directory, (version,))
        if before.version == version:
            return before
        served_before = before.versions[1:] if before.version == instead_of else before.versions
        return _write_current(directory, (version, *served_before))


def step_back(directory: Path, version: str) -> CurrentHead:
    """Serve `version`, the previous one, and forget the version served until now. Hold `current_lock`.

    Only a promotion, which compares heads and may ask for confirmation, serves the newer version again.
    """
    before = read_current(directory)
    return _write_current(directory, (version, *(before.versions[2:] if before else ())))


def current_lock(directory: Path) -> FileLock:
    """Return the lock of current.json, which promotions and rollbacks of several processes change.

    The directory must exist.
    """
    return FileLock(directory / ".current.json.lock")


def _write_current(directory: Path, versions: tuple[str, ...]) -> CurrentHead:
    before = [version for version in versions[1:] if version != versions[0]]
    current = CurrentHead(
        version=versions[0],
        previous=before[0] if before else None,
        earlier=tuple(before[1 : 1 + _MOST_EARLIER]),
    )
    write_json(directory / "current.json", current.model_dump(mode="json"))
    return current


def _golden_embedding(dimension: int) -> npt.NDArray[np.float32]:
    """Return a fixed random point [1, dimension] on the unit sphere, which is nobody's embedding."""
    point = np.random.default_rng(0).standard_normal((1, dimension)).astype(np.float32)
    return np.asarray(point / np.linalg.norm(point))
