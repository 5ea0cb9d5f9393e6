"""Import the faces that the original project extracted, such as `Adience/data-aligned.npy`.

The files are `np.save` of a pickled dict (fold → samples) for Adience, and of a list of samples for IMDB and
WIKI; source: tae898/age-gender, `utils/scripts.py`. A sample is a dict of image_path, age, gender, embedding,
and for Adience fold. They are read without unpickling.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.files import read_bytes
from agegender.labels import AGE_GROUPS, Gender
from agegender.spaces import Space
from agegender.wire.arrays import ArrayMachine, WireError, finished, only_wire_errors, split_npy

from trainer.datasets.embedding_set import EmbeddingSet, write_embedding_set
from trainer.datasets.folds import face_counts, with_folds

FORMAT = "original"
_MAX_FILE_BYTES = 1024**3  # about 400,000 faces of 512 numbers
_MAX_OPCODES = 20_000_000
# Minimum, measured on embeddings of 2 numbers; embeddings of 512 have 30 times as many bytes per opcode.
_BYTES_AN_OPCODE = 2
_BYTES_A_CONTAINER = 40
_BYTES_A_REMEMBERED_OBJECT = 6
_MAX_NAME = 1024
_CONTAINERS = {"EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT"}
_VALUES = (str, int, float, list, dict, np.ndarray, np.number, type(None))
_GENDERS = {"m": Gender.MALE, "f": Gender.FEMALE}


@dataclass(frozen=True)
class OriginalSamples:
    """Faces of a data set of the original project, in file order.

    Attributes
    ----------
    image_path : relative to the original's working directory.
    age : float32, years; for Adience the middle of the group (1, 5, 10, 17.5, 28.5, 40.5, 50.5, 80).
    gender : 'm' or 'f'.
    fold : int16; -1 if the data set has none.
    embedding : float32 [faces, dimension].
    """

    image_path: list[str]
    age: npt.NDArray[np.float32]
    gender: list[str]
    fold: npt.NDArray[np.int16]
    embedding: npt.NDArray[np.float32]


def import_original(data_dir: Path, dataset: str, image_set: str, space: Space) -> int:
    """Write the original's file in a data set's folder as an extracted image set; return the number of faces.

    space : space of the embeddings, which the file does not name. Raises ``bad-original`` 422.
    """
    path = original_file(data_dir / dataset, image_set)
    try:
        samples = read_original_dataset(path)
        faces, grouping = with_folds(_embedding_set(samples, space))
    except (OSError, WireError, ValueError) as error:
        raise Problem("bad-original", 422, f"{dataset}/{path.name}: {error}") from error
    meta_data = {
        "dataset": dataset,
        "kind": FORMAT,
        "image_set": image_set,
        "imported_from": path.name,
        "images": len(faces),
        "removed": {},
        **grouping,
        **face_counts(faces),
    }
    write_embedding_set(data_dir, dataset, image_set, faces, meta_data)
    return len(faces)


def _embedding_set(samples: OriginalSamples, space: Space) -> EmbeddingSet:
    paths = [PurePosixPath(path) for path in samples.image_path]
    low, high = _intervals(samples)
    norm = np.linalg.norm(samples.embedding, axis=1, keepdims=True)
    if not (np.isfinite(norm) & (norm > 0)).all():
        raise ValueError("an embedding is zero or not finite")
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
    """Return the age intervals: for Adience the group with that middle, for others the exact age."""
    if not _is_adience(samples):
        return samples.age, samples.age
    bounds = np.array(AGE_GROUPS, dtype=np.float32)
    group = np.abs(samples.age[:, None] - bounds.mean(axis=1)).argmin(axis=1)
    return bounds[group, 0], bounds[group, 1]


def original_file(folder: Path, image_set: str) -> Path:
    """Return the path of `data-<image set>.npy`, or `data.npy` (IMDB and WIKI) for the image set `images`."""
    return folder / ("data.npy" if image_set == "images" else f"data-{image_set}.npy")


def original_image_sets(folder: Path) -> list[str]:
    """Return the image sets of which the folder has a file of the original project."""
    return [name for name in ("aligned", "faces", "images") if original_file(folder, name).is_file()]


def read_original_dataset(path: Path) -> OriginalSamples:
    """Read an `.npy` file of pickled samples without unpickling it. Raises `WireError`."""
    try:
        data = read_bytes(path, _MAX_FILE_BYTES)
    except ValueError as error:
        raise WireError(f"{error}.") from error
    with only_wire_errors():
        _, _, dtype, content = split_npy(data)
        if not dtype.hasobject:
            raise WireError(f"{path.name} is an array of numbers; expected the original's pickled samples.")
        del data
        return _samples(_ObjectMachine(content).run(), len(content))


class _ObjectMachine(ArrayMachine):
    """Read lists and dicts too. Only for files that the user provided, never for requests."""

    objects = True

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        # An opcode of one byte may create an object of a hundred bytes.
        self.max_remembered = self.max_opcodes + len(data) // _BYTES_A_REMEMBERED_OBJECT
        self._containers_left = self.max_opcodes + len(data) // _BYTES_A_CONTAINER
        self.max_opcodes = min(_MAX_OPCODES, self.max_opcodes + len(data) // _BYTES_AN_OPCODE)

    def step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _CONTAINERS:
            self._containers_left -= 1
            if self._containers_left < 0:
                raise WireError("The pickle has more lists and dicts than a file of its size can need.")
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
            raise WireError("The pickle appends to something other than a list.")
        self._stack[-1].extend(_value(item) for item in items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise WireError("The pickle sets items of something other than a dict.")
        for key, item in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise WireError("A dict has a key that is neither text nor a number.")
            target[key] = _value(item)


def _value(item: Any) -> Any:
    item = finished(item)
    if not isinstance(item, _VALUES):
        raise WireError(
            f"The file contains a {type(item).__name__}, which is not part of the original's samples."
        )
    return item


def _samples(array: object, file_bytes: int) -> OriginalSamples:
    faces = _faces(array)
    embeddings = [face["embedding"] for _, face in faces]
    if not all(isinstance(one, np.ndarray) and one.shape == embeddings[0].shape for one in embeddings):
        raise WireError("The embeddings do not all have the same shape.")
    if sum(one.nbytes for one in embeddings) > file_bytes:
        raise WireError("Samples share an embedding, so reading them would need more memory than the file.")
    return OriginalSamples(
        image_path=[_text(face["image_path"]) for _, face in faces],
        age=np.array([_number(face["age"]) for _, face in faces], dtype=np.float32),
        gender=[_text(face["gender"]) for _, face in faces],
        fold=np.array([fold for fold, _ in faces], dtype=np.int16),
        embedding=np.stack(embeddings).astype(np.float32),
    )


def _faces(array: object) -> list[tuple[int, Any]]:
    """Return fold and sample of each face; the fold is -1 if the file has none."""
    if not isinstance(array, np.ndarray):
        raise WireError("The file does not contain an array.")
    if array.ndim:
        faces = [(-1, sample) for sample in array.ravel()]
    else:
        folds = array.item()
        if not isinstance(folds, dict) or not all(isinstance(fold, list) for fold in folds.values()):
            raise WireError("The file does not contain a dict of folds.")
        if len({id(fold) for fold in folds.values()}) < len(folds):
            raise WireError("Several folds share one list of samples.")
        faces = [(int(_number(number)), sample) for number, fold in folds.items() for sample in fold]
    if not faces:
        raise WireError("The file contains no samples.")
    return faces


def _number(value: object) -> float:
    """Return a number; text and booleans are rejected."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise WireError(f"A sample has a {type(value).__name__}, expected a number.")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise WireError(
            f"A sample has a {type(value).__name__}, expected text of up to {_MAX_NAME} characters."
        )
    return value
