"""Extracted data sets: embeddings with their labels.

Files: `<data>/<data set>/<space id>/data-<image set>.npz` and `meta-data-<image set>.json`. An image set is
the folder of images that was extracted, such as Adience's `aligned` or `faces`.
"""

import hashlib
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.files import read_json, read_npy_header, read_npz, write_json, write_npz
from agegender.heads.head import Classes
from agegender.labels import MAX_AGE, Gender, age_groups_of
from agegender.spaces import Space

SHA256_BYTES, IMAGE_HASH_BYTES, DIGEST_BYTES = 32, 64, 16
_NAME = re.compile(r"[^\W_](?:[\w .()+,&'@-]{0,98}[\w.()+,&'@-])?")

_MAX_NAME_BYTES = 200  # file systems take 255


def is_dataset_name(name: str) -> bool:
    """Return whether a folder of this name can be a data set. Blanks are allowed, a leading dot is not."""
    return _NAME.fullmatch(name) is not None and len(name.encode()) <= _MAX_NAME_BYTES


class BadDataset(ValueError):
    """An extracted data set that is missing or damaged, or has another file format."""


# Columns that earlier releases did not write, and the shape of a row.
_OPTIONAL: dict[str, tuple[int, ...]] = {
    "file_sha256": (SHA256_BYTES,),
    "image_hash": (IMAGE_HASH_BYTES,),
    "photograph": (),
    "labelled_subject": (),
}


@dataclass(frozen=True)
class FaceLabels:
    """Labels of faces; every array has one row per face.

    Attributes
    ----------
    file : str; name relative to the image folder.
    age_low, age_high : float32, years; equal for an exact age, NaN if the age is unknown.
    gender : int8, `agegender.labels.Gender`.
    subject : str; empty if unknown.
    fold : int16; -1 if the data set has no folds of its own.
    file_sha256 : uint8 [faces, 32]; hash of the image file's bytes.
    image_hash : uint8 [faces, 64]; perceptual hashes of the upright image and of its mirror image, 256 bits
        each.
    photograph : int32; row of the first face that comes from a copy of the same photograph.
    labelled_subject : str; subject that the labels give, before near-duplicates were joined.

    The last four have no rows if they are unknown, as in data sets that earlier releases extracted.
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
    labelled_subject: npt.NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, np.str_), kw_only=True)

    def __post_init__(self) -> None:
        faces = len(self.file)
        for name in ("age_low", "age_high", "gender", "subject", "fold"):
            if getattr(self, name).shape != (faces,):
                raise BadDataset(f"{name} has shape {getattr(self, name).shape}; expected ({faces},)")
        for name, width in _OPTIONAL.items():
            array = getattr(self, name)
            if array.shape not in ((faces, *width), (0, *width)):
                raise BadDataset(f"{name} has shape {array.shape}; expected {(faces, *width)}")

    def __len__(self) -> int:
        return len(self.file)

    @property
    def has_hashes(self) -> bool:
        """Return whether every face has its hashes, so that copies of an image can be found."""
        return len(self.file_sha256) == len(self) and len(self.image_hash) == len(self)

    @property
    def has_age(self) -> npt.NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.age_low) & np.isfinite(self.age_high))

    @property
    def has_gender(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.gender != Gender.UNKNOWN)

    def rows(self, index: npt.NDArray[Any]) -> Self:
        """Return the faces that `index` (positions or a mask) selects."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(
            self, **{name: array[index] for name, array in arrays.items() if len(array) == len(self)}
        )


@dataclass(frozen=True)
class EmbeddingSet(FaceLabels):
    """Faces of one data set in one embedding space.

    Attributes
    ----------
    embedding : float32 [faces, dimension], unit norm.
    embedding_mirrored : the mirrored face's embedding, [faces, dimension]; no rows if it was not extracted.
    """

    space: Space
    embedding: npt.NDArray[np.float32]
    embedding_mirrored: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        super().__post_init__()
        faces = len(self.file)
        if self.embedding.shape != (faces, self.space.dimension):
            raise BadDataset(
                f"embedding has shape {self.embedding.shape}; expected ({faces}, {self.space.dimension})"
            )
        if self.embedding_mirrored.shape not in ((faces, self.space.dimension), (0, self.space.dimension)):
            raise BadDataset(
                f"embedding_mirrored has shape {self.embedding_mirrored.shape}; "
                f"expected ({faces}, {self.space.dimension}) or no rows"
            )
        if not (_is_finite(self.embedding) and _is_finite(self.embedding_mirrored)):
            raise BadDataset("an embedding contains NaN or infinite values")


# The order of the arrays in the file; its hash depends on it.
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
    """Check block by block, because the embeddings may be a mapped file that is larger than memory."""
    return all(np.isfinite(array[row : row + block]).all() for row in range(0, len(array), block))


def data_path(data_dir: Path, dataset: str, space: Space, image_set: str) -> Path:
    return data_dir / dataset / space.id / f"data-{image_set}.npz"


def meta_data_path(data_dir: Path, dataset: str, space: Space, image_set: str) -> Path:
    return data_dir / dataset / space.id / f"meta-data-{image_set}.json"


def write_embedding_set(
    data_dir: Path, dataset: str, image_set: str, faces: EmbeddingSet, meta_data: dict[str, Any]
) -> None:
    """Write both files, the meta-data (counts of faces and of removed rows, by reason) last."""
    path = data_path(data_dir, dataset, faces.space, image_set)
    write_npz(path, {name: getattr(faces, name) for name in _ARRAYS})
    write_json(
        meta_data_path(data_dir, dataset, faces.space, image_set),
        {**meta_data, "space": faces.space.model_dump(), "faces": len(faces), "sha256": file_sha256(path)},
    )


def read_embedding_set(data_dir: Path, dataset: str, space: Space, image_set: str) -> EmbeddingSet:
    """Read an extracted data set without unpickling anything. Raises `BadDataset`."""
    path = data_path(data_dir, dataset, space, image_set)
    try:
        return EmbeddingSet(space=space, **_columns(read_npz(path), _ARRAYS))
    except (OSError, KeyError, ValueError) as error:
        raise BadDataset(f"{path}: {error}") from error


def read_labels(data_dir: Path, dataset: str, space: Space, image_set: str) -> FaceLabels:
    """Read the labels without the embeddings, which may be larger than memory. Raises `BadDataset`."""
    path = data_path(data_dir, dataset, space, image_set)
    names = [field.name for field in fields(FaceLabels)]
    try:
        return FaceLabels(**_columns(read_npz(path, names), names))
    except (OSError, KeyError, ValueError) as error:
        raise BadDataset(f"{path}: {error}") from error


def _columns(arrays: dict[str, npt.NDArray[Any]], names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """Return the named arrays; optional ones may be absent. Raises `KeyError`."""
    return {name: arrays[name] for name in names if name in arrays or name not in _OPTIONAL}


def read_meta_data(data_dir: Path, dataset: str, space: Space, image_set: str) -> dict[str, Any]:
    """Return the meta-data of an extracted data set. Raises `BadDataset`."""
    path = meta_data_path(data_dir, dataset, space, image_set)
    try:
        return dict(read_json(path))
    except (OSError, ValueError) as error:
        raise BadDataset(f"{path}: {error}") from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, from memory if it is the file that was read last time."""
    known = path.stat()
    return _file_sha256(path, (known.st_ino, known.st_size, known.st_mtime_ns))


@lru_cache(maxsize=64)
def _file_sha256(path: Path, version: tuple[int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def face_digests(faces: FaceLabels, embeddings: Iterable[bytes]) -> npt.NDArray[np.uint8]:
    """Return a digest [faces, 16] of all that training uses of each face.

    That is its name, ages, gender, subject and fold, and its embeddings.

    embeddings : of each face, as `embedding_bytes` or `stored_embedding_bytes` yields them.
    """
    columns = (faces.file, faces.subject, faces.fold, faces.gender, faces.age_low, faces.age_high)
    digests = bytearray()
    for *labels, content in zip(*(column.tolist() for column in columns), embeddings, strict=True):
        text = "\0".join(map(str, labels)).encode(errors="surrogatepass")
        digests += hashlib.blake2b(text + b"\0" + content, digest_size=DIGEST_BYTES).digest()
    return np.frombuffer(bytes(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def embedding_bytes(faces: EmbeddingSet) -> Iterator[bytes]:
    """Yield the bytes of the embeddings of each face."""
    twice = len(faces.embedding_mirrored) == len(faces)
    for row, embedding in enumerate(faces.embedding):
        yield embedding.tobytes() + (faces.embedding_mirrored[row].tobytes() if twice else b"")


def stored_embedding_bytes(paths: Sequence[Path]) -> Iterator[bytes]:
    """Yield what `embedding_bytes` yields for these data sets combined, without reading them into memory."""
    shapes = [[_shape(path, name) for name in ("embedding", "embedding_mirrored")] for path in paths]
    twice = all(mirrored[0] == faces[0] for faces, mirrored in shapes)
    for path in paths:
        rows = _stored_rows(path, "embedding")
        if twice:
            pairs = zip(rows, _stored_rows(path, "embedding_mirrored"), strict=True)
            yield from (first + second for first, second in pairs)
        else:
            yield from rows


def _shape(path: Path, name: str) -> tuple[int, ...]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        return read_npy_header(stream)[0]


def _stored_rows(path: Path, name: str) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        shape, by_column, dtype = read_npy_header(stream)
        if by_column:
            yield from (row.tobytes() for row in read_npz(path, [name])[name])
        else:
            size = math.prod(shape[1:]) * dtype.itemsize
            yield from (stream.read(size) for _ in range(shape[0]))


def selected(faces: EmbeddingSet, named: list[Any], keys: list[Any]) -> EmbeddingSet:
    """Return the faces with these keys, in their order. Raises KeyError. keys : of all faces."""
    if named == keys:
        return faces
    rows = {key: row for row, key in enumerate(keys)}
    return faces.rows(np.array([rows[key] for key in named], np.int64))


def as_recorded(faces: EmbeddingSet, path: Path, names: str) -> EmbeddingSet:
    """Return the faces that a run was created with, in their order.

    Raises ``bad-dataset`` 409 if one of them has changed.

    path : file with their digests, of `face_digests`. names : of the data sets, for the message.
    """
    try:
        recorded = [digest.tobytes() for digest in read_npz(path)["digest"]]
    except (OSError, KeyError, ValueError) as error:
        raise Problem("bad-dataset", 409, f"{path}: {error}; start a new run.") from error
    present = [digest.tobytes() for digest in face_digests(faces, embedding_bytes(faces))]
    if changed := len(set(recorded) - set(present)):
        raise changed_data(
            f"{changed:,} of {len(recorded):,} faces are absent, or have other labels, subjects, folds or "
            f"embeddings than at the creation of this run, because {names} was extracted or grouped again."
        )
    return selected(faces, recorded, present)


def changed_data(what: str) -> Problem:
    """Return ``bad-dataset`` 409 for a run whose data have changed since its creation. what : a sentence."""
    return Problem("bad-dataset", 409, f"{what} Restore the extracted data set, or start a new run.")


def combine(sets: Mapping[str, EmbeddingSet]) -> EmbeddingSet:
    """Concatenate data sets in the order of the mapping (name → set); labels as `combine_labels` does.

    Mirrored embeddings are kept only if all sets have them. Raises ``space-mismatch`` and ``no-folds`` 409.
    """
    members = list(sets.values())
    for member in members[1:]:
        members[0].space.require(member.space)
    mirrored = all(len(member.embedding_mirrored) == len(member) for member in members)
    return EmbeddingSet(
        **vars(combine_labels(sets)),
        space=members[0].space,
        embedding=np.concatenate([member.embedding for member in members]),
        embedding_mirrored=np.concatenate(
            [member.embedding_mirrored if mirrored else member.embedding_mirrored[:0] for member in members]
        ),
    )


def combine_labels(sets: Mapping[str, FaceLabels]) -> FaceLabels:
    """Concatenate labels in the order of the mapping (name → labels).

    Files and subjects are prefixed with the data set's name, so subjects of two sets are never mixed up. The
    result has as many folds as the set with the fewest: its fold k takes the other sets' folds k, k + folds,
    and so on. Folds therefore stay subject-exclusive. Optional columns are dropped: `exclusiveness` compares
    the data sets themselves.

    Raises ``no-folds`` 409 for a set without folds.
    """
    names, members = list(sets), list(sets.values())
    if without := [name for name, labels in sets.items() if len(labels) == 0 or (labels.fold < 0).any()]:
        raise Problem("no-folds", 409, f"The data set {without[0]!r} has no folds; extract it again.")
    folds = min(int(member.fold.max()) + 1 for member in members)
    return FaceLabels(
        file=_prefixed(names, [member.file for member in members]),
        age_low=np.concatenate([member.age_low for member in members]),
        age_high=np.concatenate([member.age_high for member in members]),
        gender=np.concatenate([member.gender for member in members]),
        subject=_prefixed(names, [member.subject for member in members]),
        fold=np.concatenate([member.fold % folds for member in members]).astype(np.int16),
    )


def _prefixed(names: list[str], columns: list[npt.NDArray[np.str_]]) -> npt.NDArray[np.str_]:
    return np.concatenate(
        [
            np.where(column == "", "", np.char.add(f"{name}/", column))
            for name, column in zip(names, columns, strict=True)
        ]
    )


def age_bounds(faces: EmbeddingSet, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last class [faces] that each age label allows; class 0 for an unknown age."""
    low, high = np.nan_to_num(faces.age_low), np.nan_to_num(faces.age_high)
    if classes is Classes.GROUPS:
        group = age_groups_of((low + high) / 2)
        return group, group
    low, high = np.clip(np.floor(low), 0, MAX_AGE), np.clip(np.floor(high), 0, MAX_AGE)
    return low.astype(np.int64), np.maximum(low, high).astype(np.int64)
