"""Adience (Eidinger, Enbar and Hassner 2014, doi:10.1109/TIFS.2014.2359646): one label file per fold."""

import re
from collections.abc import Iterator
from pathlib import Path

from agegender.labels import Gender

from trainer.datasets.formats.table_files import read_tab_separated
from trainer.datasets.labels import DETECTED, DatasetFormat, LabelledImage, LabelRow, Reason, Removed

FOLDS = 5
_FILE_PREFIX = {"aligned": "landmark_aligned_face", "faces": "coarse_tilt_aligned_face"}
_COLUMNS = ("user_id", "original_image", "face_id", "age", "gender")
_GENDERS = {"m": Gender.MALE, "f": Gender.FEMALE}
_YEARS = re.compile(r"\d{1,3}")
# 72 rows, all in one album that also has (25, 32): the digits of the upper end are swapped.
_MISTYPED = {(25, 23): (25, 32)}


def label_file(folder: Path, fold: int) -> Path:
    return folder / f"fold_{fold}_data.txt"


def age_interval(text: str) -> tuple[int, int] | None:
    """Return the years of an Adience age: an interval `(25, 32)`, a single age `35`, or None for `None`.

    >>> age_interval("(38, 42)"), age_interval("35"), age_interval("None"), age_interval("(25, 23)")
    ((38, 42), (35, 35), None, (25, 32))
    """
    years = [int(number) for number in _YEARS.findall(text)]
    if not 1 <= len(years) <= 2:
        return None
    low, high = _MISTYPED.get((years[0], years[-1]), (years[0], years[-1]))
    return min(low, high), max(low, high)


def read(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the rows of all folds, fold by fold. `checked_rows` removes the repeated ones.

    The subject is the album (`user_id`): folds are exclusive by album, and one person may have several
    `face_id` in an album.
    """
    for fold in range(FOLDS):
        for row in read_tab_separated(label_file(folder, fold), _COLUMNS):
            yield _labelled(row, image_set, fold)


def _labelled(row: dict[str, str], image_set: str, fold: int) -> LabelRow:
    user, image, face = (row[name] for name in ("user_id", "original_image", "face_id"))
    file = f"{user}/{_FILE_PREFIX[image_set]}.{face}.{image}"
    # Age before gender, as the original project counts: 713 rows have neither.
    age = age_interval(row["age"])
    if age is None:
        return Removed(file, Reason.NO_AGE, fold)
    gender = _GENDERS.get(row["gender"])
    if gender is None:
        return Removed(file, Reason.NO_GENDER, fold)
    return LabelledImage(file, float(age[0]), float(age[1]), gender, subject=user, fold=fold)


def image_sets(folder: Path) -> list[str]:
    if not all(label_file(folder, fold).is_file() for fold in range(FOLDS)):
        return []
    return [name for name in _FILE_PREFIX if (folder / name).is_dir()] or list(_FILE_PREFIX)[:1]


FORMAT = DatasetFormat(
    name="adience",
    looks_for="Adience: fold_0_data.txt to fold_4_data.txt, and images in aligned/ or faces/",
    image_sets=image_sets,
    image_dir=lambda folder, image_set: folder / image_set,
    read=read,
    min_det_score=DETECTED,
)
