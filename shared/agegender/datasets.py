"""Extracted data sets: embeddings with their labels, as `data-<variant>.npz` and `meta-data-<variant>.json`.

They lie in `<data>/<data set>/<space id>/`. The variant is the folder of images that was extracted, such as
Adience's `aligned` and `faces`.
"""

import hashlib
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from agegender.files import read_json, read_npz, write_json, write_npz
from agegender.labels import Gender
from agegender.spaces import Space

_NAME = re.compile(r"[^\W_](?:[\w .()+,&'@-]{0,98}[\w.()+,&'@-])?")

_MAX_NAME_BYTES = 200  # file systems take 255


def is_dataset_name(name: str) -> bool:
    """Return whether a folder of this name can be a data set; inner blanks can be, hidden names cannot."""
    return _NAME.fullmatch(name) is not None and len(name.encode()) <= _MAX_NAME_BYTES


class BadDataset(ValueError):
    """An extracted data set is missing, damaged, or not of this format."""


@dataclass(frozen=True)
class FaceLabels:
    """What is known of faces; all arrays have one row a face.

    file : names relative to the image folder, str.
    age_low, age_high : years, float32; equal for an exact age, NaN where the age is unknown.
    gender : int8, `agegender.labels.Gender`.
    subject : str; empty where unknown.
    fold : int16; -1 where the data set has no folds of its own.
    """

    file: npt.NDArray[np.str_]
    age_low: npt.NDArray[np.float32]
    age_high: npt.NDArray[np.float32]
    gender: npt.NDArray[np.int8]
    subject: npt.NDArray[np.str_]
    fold: npt.NDArray[np.int16]

    def __post_init__(self) -> None:
        faces = len(self.file)
        for name in ("age_low", "age_high", "gender", "subject", "fold"):
            if getattr(self, name).shape != (faces,):
                raise BadDataset(f"{name} has shape {getattr(self, name).shape}, not ({faces},)")

    def __len__(self) -> int:
        return len(self.file)

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
        arrays = read_npz(path)
        return EmbeddingSet(space=space, **{name: arrays[name] for name in _ARRAYS})
    except (OSError, KeyError, ValueError) as error:
        raise BadDataset(f"{path}: {error}") from error


def read_labels(data_dir: Path, dataset: str, space: Space, variant: str) -> FaceLabels:
    """The same without the embeddings, which may be larger than memory. Raises `BadDataset`."""
    path = data_path(data_dir, dataset, space, variant)
    names = [field.name for field in fields(FaceLabels)]
    try:
        arrays = read_npz(path, names)
        return FaceLabels(**{name: arrays[name] for name in names})
    except (OSError, KeyError, ValueError) as error:
        raise BadDataset(f"{path}: {error}") from error


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
