"""IMDB-WIKI (Rothe, Timofte and Van Gool 2018, doi:10.1007/s11263-016-0940-3): `imdb.mat` or `wiki.mat`.

The filters are those of the original project: age from 0 to 100 years, known gender, exactly one detected
face, and a minimum detection score.
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
_SOURCES = ("imdb", "wiki")
_GENDERS = {0.0: Gender.FEMALE, 1.0: Gender.MALE}
_COLUMNS = {"full_path": "O", "dob": "iuf", "gender": "iuf", "photo_taken": "iuf", "name": "O"}
_MATLAB_DAYS = 366  # MATLAB counts days from year 0, Python from year 1


def label_files(folder: Path) -> list[Path]:
    return [path for source in _SOURCES if (path := folder / f"{source}.mat").is_file()]


def age_when_taken(birth: float, year: float) -> int:
    """Return the age in the middle of the year in which a photograph was taken.

    birth : MATLAB serial day; days before year 1 count as 1 January of year 1. year : year of the photograph.
    """
    born = date.fromordinal(min(max(int(birth) - _MATLAB_DAYS, 1), date.max.toordinal()))
    return int(year) - born.year - (born.month >= 7)


def read(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the rows of imdb.mat, then those of wiki.mat. The subject is the person's name."""
    for path in label_files(folder):
        yield from _rows(path)


def _rows(path: Path) -> Iterator[LabelRow]:
    try:
        table = read_mat(path, path.stem)[0, 0]
        columns = {name: _column(table, name, dtypes) for name, dtypes in _COLUMNS.items()}
    except (OSError, BadMatFile, ValueError, IndexError, KeyError, TypeError) as error:
        raise bad_labels(path, str(error)) from error
    if len({len(column) for column in columns.values()}) != 1:
        raise bad_labels(path, "expected columns of equal length")
    for file, birth, gender, taken, name in zip(*columns.values(), strict=True):
        yield _labelled(_text(file), birth, gender, taken, _text(name))


def _column(table: Any, name: str, dtypes: str) -> npt.NDArray[Any]:
    column = np.asarray(table[name])
    if column.ndim != 2 or len(column) != 1 or column.dtype.kind not in dtypes:
        raise ValueError(
            f"expected the column {name} to be one row of {'cells' if dtypes == 'O' else 'numbers'}"
        )
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


def image_sets(folder: Path) -> list[str]:
    return [IMAGE_SET] if label_files(folder) else []


FORMAT = DatasetFormat(
    name="imdb-wiki",
    looks_for="IMDB-WIKI: imdb.mat or wiki.mat, and the numbered folders of crops in the same folder",
    image_sets=image_sets,
    image_dir=lambda folder, image_set: folder,
    read=read,
    min_det_score=DETECTED,
    one_face_only=True,
)
