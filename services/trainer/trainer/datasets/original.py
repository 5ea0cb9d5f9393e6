"""Faces that the original extracted (`data-aligned.npy`, `data.npy`), made a data set of ours."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.files import read_bytes
from agegender.labels import AGE_GROUPS, Gender
from agegender.spaces import Space
from agegender.wire.arrays import WireError, finished
from agegender.wire.pickle_arrays import ArrayMachine, only_wire_errors, split_npy

from trainer.datasets.embedding_set import EmbeddingSet, write_embedding_set
from trainer.datasets.grouping import face_counts, with_folds

FORMAT = "original"
_MAX_FILE_BYTES = 1024**3  # about 400,000 faces of 512 numbers
_MAX_OPCODES = 20_000_000
# At least, measured on faces of 2 numbers, which are the smallest; faces of 512 have 30 times as many.
_BYTES_AN_OPCODE = 2
_BYTES_A_CONTAINER = 40
_BYTES_A_REMEMBERED_OBJECT = 6
_MAX_NAME = 1024
_CONTAINERS = {"EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT"}
_VALUES = (str, int, float, list, dict, np.ndarray, np.number, type(None))
_GENDERS = {"m": Gender.MALE, "f": Gender.FEMALE}


@dataclass(frozen=True)
class OriginalSamples:
    """Faces of an original data set, in file order.

    image_path : as the original wrote it, relative to its working directory.
    age : years, float32; for Adience the middle of the group (1, 5, 10, 17.5, 28.5, 40.5, 50.5, 80).
    gender : 'm' or 'f'.
    fold : int16; -1 where the data set has none.
    embedding : [faces, dimension], float32.
    """

    image_path: list[str]
    age: npt.NDArray[np.float32]
    gender: list[str]
    fold: npt.NDArray[np.int16]
    embedding: npt.NDArray[np.float32]


def import_original(data_dir: Path, dataset: str, variant: str, space: Space) -> int:
    """Write an original file of a data set's folder as extracted faces; gives their number.

    The space is named by whoever imports, for the file does not tell it. Raises ``bad-original`` 422.
    """
    path = original_file(data_dir / dataset, variant)
    try:
        samples = read_original_dataset(path)
        faces, told = with_folds(_embedding_set(samples, space))
    except (OSError, WireError, ValueError) as error:
        raise Problem("bad-original", 422, f"{dataset}/{path.name}: {error}") from error
    meta_data = {
        "dataset": dataset,
        "kind": FORMAT,
        "variant": variant,
        "imported_from": path.name,
        "images": len(faces),
        "removed": {},
        **told,
        **face_counts(faces),
    }
    write_embedding_set(data_dir, dataset, variant, faces, meta_data)
    return len(faces)


def _embedding_set(samples: OriginalSamples, space: Space) -> EmbeddingSet:
    paths = [PurePosixPath(path) for path in samples.image_path]
    low, high = _intervals(samples)
    norm = np.linalg.norm(samples.embedding, axis=1, keepdims=True)
    if not (np.isfinite(norm) & (norm > 0)).all():
        raise ValueError("an embedding has no direction")
    return EmbeddingSet(
        space=space,
        file=np.array(["/".join(path.parts[-2:]) for path in paths]),
        embedding=np.asarray(samples.embedding / norm, dtype=np.float32),
        age_low=low,
        age_high=high,
        gender=np.array([_GENDERS.get(gender, Gender.UNKNOWN) for gender in samples.gender], dtype=np.int8),
        subject=np.array([path.parent.name if _is_adience(samples) else "" for path in paths], dtype=np.str_),
        fold=samples.fold,
        embedding_mirrored=np.zeros((0, space.dimension), np.float32),
    )


def _is_adience(samples: OriginalSamples) -> bool:
    return bool((samples.fold >= 0).all())


def _intervals(samples: OriginalSamples) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """For Adience the group whose middle stands in the file, for others the year."""
    if not _is_adience(samples):
        return samples.age, samples.age
    bounds = np.array(AGE_GROUPS, dtype=np.float32)
    group = np.abs(samples.age[:, None] - bounds.mean(axis=1)).argmin(axis=1)
    return bounds[group, 0], bounds[group, 1]


def original_file(folder: Path, variant: str) -> Path:
    """`data-aligned.npy` holds the variant aligned; `data.npy`, of IMDB and WIKI, the variant images."""
    return folder / ("data.npy" if variant == "images" else f"data-{variant}.npy")


def original_variants(folder: Path) -> list[str]:
    return [name for name in ("aligned", "faces", "images") if original_file(folder, name).is_file()]


def read_original_dataset(path: Path) -> OriginalSamples:
    """Read the original's `.npy` of pickled samples without unpickling it. Raises `WireError`."""
    try:
        data = read_bytes(path, _MAX_FILE_BYTES)
    except ValueError as error:
        raise WireError(f"{error}.") from error
    with only_wire_errors():
        _, _, dtype, content = split_npy(data)
        if not dtype.hasobject:
            raise WireError(f"{path.name} holds an array of numbers, not the original's samples.")
        del data
        return _samples(_ObjectMachine(content).run(), len(content))


class _ObjectMachine(ArrayMachine):
    """Reads lists and dicts as well, for files that the user put there; requests never come here."""

    objects = True

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        # An opcode of one byte may make an object of a hundred.
        self.max_remembered = self.max_opcodes + len(data) // _BYTES_A_REMEMBERED_OBJECT
        self._containers_left = self.max_opcodes + len(data) // _BYTES_A_CONTAINER
        self.max_opcodes = min(_MAX_OPCODES, self.max_opcodes + len(data) // _BYTES_AN_OPCODE)

    def step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _CONTAINERS:
            self._containers_left -= 1
            if self._containers_left < 0:
                raise WireError("The pickle has more lists and dicts than faces of its size.")
        match name:
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "LIST":
                stack.append([_value(item) for item in self.since_mark()])
            case "DICT":
                items = self.since_mark()
                stack.append({})
                self._set_items(items)
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self.since_mark())
            case "SETITEM":
                items = self._top(2)
                del stack[-2:]
                self._set_items(items)
            case "SETITEMS":
                self._set_items(self.since_mark())
            case "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case _:
                super().step(name, argument)

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise WireError("The pickle appends to something that is no list.")
        self._stack[-1].extend(_value(item) for item in items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise WireError("The pickle sets items of something that is no dict.")
        for key, item in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise WireError("A dict has a key that is neither text nor a number.")
            target[key] = _value(item)


def _value(item: Any) -> Any:
    item = finished(item)
    if not isinstance(item, _VALUES):
        raise WireError(f"The file holds a {type(item).__name__}, which the original's samples do not have.")
    return item


def _samples(array: object, file_bytes: int) -> OriginalSamples:
    faces = _faces(array)
    embeddings = [face["embedding"] for _, face in faces]
    if not all(isinstance(one, np.ndarray) and one.shape == embeddings[0].shape for one in embeddings):
        raise WireError("The embeddings are not arrays of one shape.")
    if sum(one.nbytes for one in embeddings) > file_bytes:
        raise WireError("Samples share an embedding, so that they would grow while they are read.")
    return OriginalSamples(
        image_path=[_text(face["image_path"]) for _, face in faces],
        age=np.array([_number(face["age"]) for _, face in faces], dtype=np.float32),
        gender=[_text(face["gender"]) for _, face in faces],
        fold=np.array([fold for fold, _ in faces], dtype=np.int16),
        embedding=np.stack(embeddings).astype(np.float32),
    )


def _faces(array: object) -> list[tuple[int, Any]]:
    """Fold and sample of each face; fold -1 where there are none."""
    if not isinstance(array, np.ndarray):
        raise WireError("The file holds no array.")
    if array.ndim:
        faces = [(-1, sample) for sample in array.ravel()]
    else:
        folds = array.item()
        if not isinstance(folds, dict) or not all(isinstance(fold, list) for fold in folds.values()):
            raise WireError("The file holds no dict of folds.")
        if len({id(fold) for fold in folds.values()}) < len(folds):
            raise WireError("Folds share a list of samples.")
        faces = [(int(_number(number)), sample) for number, fold in folds.items() for sample in fold]
    if not faces:
        raise WireError("The file holds no samples.")
    return faces


def _number(value: object) -> float:
    """Text is no number, nor is a truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise WireError("A sample has something else where a number belongs.")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise WireError(f"A sample has no text of up to {_MAX_NAME} characters where one belongs.")
    return value
