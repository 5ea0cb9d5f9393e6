"""Extracted data sets: embeddings with their labels, as `data-<variant>.npz` and `meta-data-<variant>.json`.

They lie in `<data>/<data set>/<space id>/`. The variant is the folder of images that was extracted, such as
Adience's `aligned` and `faces`.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.files import read_json, read_npz, write_json, write_npz
from agegender.heads.head import Classes
from agegender.labels import MAX_AGE, Gender, age_groups_of
from agegender.spaces import Space

SHA256_BYTES, IMAGE_HASH_BYTES = 32, 64
_NAME = re.compile(r"[^\W_](?:[\w .()+,&'@-]{0,98}[\w.()+,&'@-])?")

_MAX_NAME_BYTES = 200  # file systems take 255


def is_dataset_name(name: str) -> bool:
    """Return whether a folder of this name can be a data set; inner blanks can be, hidden names cannot."""
    return _NAME.fullmatch(name) is not None and len(name.encode()) <= _MAX_NAME_BYTES


class BadDataset(ValueError):
    """An extracted data set is missing, damaged, or not of this format."""


# Columns that data sets of earlier releases lack, and the shape of a row.
_OPTIONAL: dict[str, tuple[int, ...]] = {
    "file_sha256": (SHA256_BYTES,),
    "image_hash": (IMAGE_HASH_BYTES,),
    "photograph": (),
}


@dataclass(frozen=True)
class FaceLabels:
    """What is known of faces; all arrays have one row a face.

    file : names relative to the image folder, str.
    age_low, age_high : years, float32; equal for an exact age, NaN where the age is unknown.
    gender : int8, `agegender.labels.Gender`.
    subject : str; empty where unknown.
    fold : int16; -1 where the data set has no folds of its own.
    file_sha256 : [faces, 32], uint8; of the image file's bytes.
    image_hash : [faces, 64], uint8; perceptual hashes, of 256 bits each, of the upright image and of its
        mirror image.
    photograph : int32; row of the first face that comes from a copy of the same photograph.

    The last three have no rows if they are not known, as in data sets that earlier releases extracted.
    """

    file: npt.NDArray[np.str_]
    age_low: npt.NDArray[np.float32]
    age_high: npt.NDArray[np.float32]
    gender: npt.NDArray[np.int8]
    subject: npt.NDArray[np.str_]
    fold: npt.NDArray[np.int16]
    file_sha256: npt.NDArray[np.uint8] = field(
        default_factory=lambda: np.zeros((0, SHA256_BYTES), np.uint8), kw_only=True
    )
    image_hash: npt.NDArray[np.uint8] = field(
        default_factory=lambda: np.zeros((0, IMAGE_HASH_BYTES), np.uint8), kw_only=True
    )
    photograph: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32), kw_only=True)

    def __post_init__(self) -> None:
        faces = len(self.file)
        for name in ("age_low", "age_high", "gender", "subject", "fold"):
            if getattr(self, name).shape != (faces,):
                raise BadDataset(f"{name} has shape {getattr(self, name).shape}, not ({faces},)")
        for name, width in _OPTIONAL.items():
            array = getattr(self, name)
            if array.shape not in ((faces, *width), (0, *width)):
                raise BadDataset(
                    f"{name} has shape {array.shape}, not ({', '.join(map(str, (faces, *width)))})"
                )

    def __len__(self) -> int:
        return len(self.file)

    @property
    def has_hashes(self) -> bool:
        """Whether copies of these faces' images can be found by their hashes."""
        return len(self.file_sha256) == len(self) and len(self.image_hash) == len(self)

    @property
    def has_age(self) -> npt.NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.age_low) & np.isfinite(self.age_high))

    @property
    def has_gender(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.gender != Gender.UNKNOWN)

    def rows(self, index: npt.NDArray[Any]) -> Self:
        """The faces that `index` (positions or a mask) selects."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(
            self, **{name: array[index] for name, array in arrays.items() if len(array) == len(self)}
        )


@dataclass(frozen=True)
class EmbeddingSet(FaceLabels):
    """Faces of one data set in one space.

    embedding : [faces, dimension], float32, unit norm.
    embedding_mirrored : of the mirrored face, [faces, dimension], or of no rows where it was not extracted.
    """

    space: Space
    embedding: npt.NDArray[np.float32]
    embedding_mirrored: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        super().__post_init__()
        faces = len(self.file)
        if self.embedding.shape != (faces, self.space.dimension):
            raise BadDataset(
                f"embedding has shape {self.embedding.shape}, not ({faces}, {self.space.dimension})"
            )
        if self.embedding_mirrored.shape not in ((faces, self.space.dimension), (0, self.space.dimension)):
            raise BadDataset(f"embedding_mirrored has shape {self.embedding_mirrored.shape}")
        if not (_is_finite(self.embedding) and _is_finite(self.embedding_mirrored)):
            raise BadDataset("an embedding has values that are not finite")


# In the order of the file, whose bytes hang on it.
_ARRAYS = (
    "file",
    "embedding",
    "age_low",
    "age_high",
    "gender",
    "subject",
    "fold",
    "embedding_mirrored",
    *_OPTIONAL,
)


def _is_finite(array: npt.NDArray[np.float32], block: int = 1024) -> bool:
    """By blocks: the embeddings may be a mapped file larger than memory."""
    return all(np.isfinite(array[row : row + block]).all() for row in range(0, len(array), block))


def data_path(data_dir: Path, dataset: str, space: Space, variant: str) -> Path:
    return data_dir / dataset / space.id / f"data-{variant}.npz"


def meta_data_path(data_dir: Path, dataset: str, space: Space, variant: str) -> Path:
    return data_dir / dataset / space.id / f"meta-data-{variant}.json"


def write_embedding_set(
    data_dir: Path, dataset: str, variant: str, faces: EmbeddingSet, meta_data: dict[str, Any]
) -> None:
    """Write both files; the meta-data (counts of everything removed, and why) last."""
    path = data_path(data_dir, dataset, faces.space, variant)
    write_npz(path, {name: getattr(faces, name) for name in _ARRAYS})
    write_json(
        meta_data_path(data_dir, dataset, faces.space, variant),
        {**meta_data, "space": faces.space.model_dump(), "faces": len(faces), "sha256": file_sha256(path)},
    )


def read_embedding_set(data_dir: Path, dataset: str, space: Space, variant: str) -> EmbeddingSet:
    """Read what `write_embedding_set` wrote. Raises `BadDataset`; never unpickles."""
    path = data_path(data_dir, dataset, space, variant)
    try:
        return EmbeddingSet(space=space, **_columns(read_npz(path), _ARRAYS))
    except (OSError, KeyError, ValueError) as error:
        raise BadDataset(f"{path}: {error}") from error


def read_labels(data_dir: Path, dataset: str, space: Space, variant: str) -> FaceLabels:
    """The same without the embeddings, which may be larger than memory. Raises `BadDataset`."""
    path = data_path(data_dir, dataset, space, variant)
    names = [field.name for field in fields(FaceLabels)]
    try:
        return FaceLabels(**_columns(read_npz(path, names), names))
    except (OSError, KeyError, ValueError) as error:
        raise BadDataset(f"{path}: {error}") from error


def _columns(arrays: dict[str, npt.NDArray[Any]], names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """The named arrays; optional ones may be absent. Raises `KeyError`."""
    return {name: arrays[name] for name in names if name in arrays or name not in _OPTIONAL}


def read_meta_data(data_dir: Path, dataset: str, space: Space, variant: str) -> dict[str, Any]:
    """The meta-data of an extracted data set. Raises `BadDataset`."""
    path = meta_data_path(data_dir, dataset, space, variant)
    try:
        return dict(read_json(path))
    except (OSError, ValueError) as error:
        raise BadDataset(f"{path}: {error}") from error


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def combine(sets: Mapping[str, EmbeddingSet]) -> EmbeddingSet:
    """Concatenate data sets, by name, in the order of the mapping, as `combine_labels` does their labels.

    Mirrored embeddings stay where all sets have them. Raises ``space-mismatch`` 409, too.
    """
    parts = list(sets.values())
    for part in parts[1:]:
        parts[0].space.require(part.space)
    mirrored = all(len(part.embedding_mirrored) == len(part) for part in parts)
    return EmbeddingSet(
        **vars(combine_labels(sets)),
        space=parts[0].space,
        embedding=np.concatenate([part.embedding for part in parts]),
        embedding_mirrored=np.concatenate(
            [part.embedding_mirrored if mirrored else part.embedding_mirrored[:0] for part in parts]
        ),
    )


def combine_labels(sets: Mapping[str, FaceLabels]) -> FaceLabels:
    """Concatenate labels, by name, in the order of the mapping.

    Files and subjects are prefixed with the data set's name, so that those of two sets never mix. All get the
    number of folds of the set that has the fewest: its fold k is joined by the others' folds k, k + folds, …,
    so a head that leaves a fold out has seen no subject of it.

    Raises ``no-folds`` 409 for a set without folds.
    """
    names, parts = list(sets), list(sets.values())
    if without := [name for name, part in sets.items() if len(part) == 0 or (part.fold < 0).any()]:
        raise Problem("no-folds", 409, f"The data set {without[0]!r} has no folds; extract it again.")
    folds = min(int(part.fold.max()) + 1 for part in parts)
    return FaceLabels(
        file=_prefixed(names, [part.file for part in parts]),
        age_low=np.concatenate([part.age_low for part in parts]),
        age_high=np.concatenate([part.age_high for part in parts]),
        gender=np.concatenate([part.gender for part in parts]),
        subject=_prefixed(names, [part.subject for part in parts]),
        fold=np.concatenate([part.fold % folds for part in parts]).astype(np.int16),
    )


def _prefixed(names: list[str], columns: list[npt.NDArray[np.str_]]) -> npt.NDArray[np.str_]:
    return np.concatenate(
        [
            np.where(column == "", "", np.char.add(f"{name}/", column))
            for name, column in zip(names, columns, strict=True)
        ]
    )


def age_bounds(faces: EmbeddingSet, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """First and last class [faces] that each known age label allows; unknown ages give class 0."""
    low, high = np.nan_to_num(faces.age_low), np.nan_to_num(faces.age_high)
    if classes is Classes.GROUPS:
        group = age_groups_of((low + high) / 2)
        return group, group
    low, high = np.clip(np.floor(low), 0, MAX_AGE), np.clip(np.floor(high), 0, MAX_AGE)
    return low.astype(np.int64), np.maximum(low, high).astype(np.int64)
