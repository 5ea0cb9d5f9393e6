"""IMDB-WIKI (Rothe, Timofte and Van Gool 2018, doi:10.1007/s11263-016-0940-3): `imdb.mat` or `wiki.mat`.

Filters as the original applies them: an age of 0 to 100 years, a known gender, exactly one detected face,
and its detection score.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.labels import MAX_AGE, Gender

from trainer.datasets.formats.matlab import BadMatFile, read_mat
from trainer.datasets.labels import (
    DETECTED,
    DatasetFormat,
    LabelledImage,
    LabelRow,
    Reason,
    Removed,
    bad_labels,
)

IMAGE_SET = "images"
_PARTS = ("imdb", "wiki")
_GENDERS = {0.0: Gender.FEMALE, 1.0: Gender.MALE}
_COLUMNS = {"full_path": "O", "dob": "iuf", "gender": "iuf", "photo_taken": "iuf", "name": "O"}
_MATLAB_DAYS = 366  # MATLAB counts days from year 0, Python from year 1


def label_files(folder: Path) -> list[Path]:
    return [path for part in _PARTS if (path := folder / f"{part}.mat").is_file()]


def age_when_taken(birth: float, year: float) -> int:
    """Years lived by the middle of the year in which a photograph was taken.

    birth : a MATLAB serial day. Days before year 1 count as 1 January of year 1.
    """
    born = date.fromordinal(min(max(int(birth) - _MATLAB_DAYS, 1), date.max.toordinal()))
    return int(year) - born.year - (born.month >= 7)


def read(folder: Path, variant: str) -> Iterator[LabelRow]:
    """Yield rows in the order of the `.mat` file, or of both. The subject is the person named."""
    for path in label_files(folder):
        yield from _rows(path)


def _rows(path: Path) -> Iterator[LabelRow]:
    try:
        table = read_mat(path, path.stem)[0, 0]
        columns = {name: _column(table, name, kinds) for name, kinds in _COLUMNS.items()}
    except (OSError, BadMatFile, ValueError, IndexError, KeyError, TypeError) as error:
        raise bad_labels(path, str(error)) from error
    if len({len(column) for column in columns.values()}) != 1:
        raise bad_labels(path, "its columns have different lengths")
    for file, birth, gender, taken, name in zip(*columns.values(), strict=True):
        yield _labelled(_text(file), birth, gender, taken, _text(name))


def _column(table: Any, name: str, kinds: str) -> npt.NDArray[Any]:
    column = np.asarray(table[name])
    if column.ndim != 2 or len(column) != 1 or column.dtype.kind not in kinds:
        raise ValueError(f"the column {name} is not one row of {'cells' if kinds == 'O' else 'numbers'}")
    return np.asarray(column[0])


def _text(cell: Any) -> str:
    values = np.asarray(cell).ravel()
    return str(values[0]) if values.size else ""


def _labelled(file: str, birth: float, gender: float, taken: float, name: str) -> LabelRow:
    if not (np.isfinite(birth) and np.isfinite(taken)):
        return Removed(file, Reason.NO_AGE)
    if not 0 <= (years := age_when_taken(birth, taken)) <= MAX_AGE:
        return Removed(file, Reason.AGE_OUT_OF_RANGE)
    if (known := _GENDERS.get(float(gender))) is None:
        return Removed(file, Reason.NO_GENDER)
    return LabelledImage(file, float(years), float(years), known, subject=name)


def variants(folder: Path) -> list[str]:
    return [IMAGE_SET] if label_files(folder) else []


FORMAT = DatasetFormat(
    name="imdb-wiki",
    looks_for="IMDB-WIKI: imdb.mat or wiki.mat, with the numbered folders of crops beside it",
    variants=variants,
    image_dir=lambda folder, variant: folder,
    read=read,
    min_det_score=DETECTED,
    one_face_only=True,
)
