"""A folder of images with a `labels.csv`: columns file, age, gender, and optionally subject and fold."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from agegender.labels import MAX_AGE, Gender

from trainer.datasets.formats.csv_table import SURPLUS, read_table
from trainer.datasets.labels import (
    NO_FOLD,
    UNKNOWN_AGE,
    DatasetFormat,
    LabelledImage,
    LabelRow,
    Reason,
    Removed,
)

IMAGE_SET = "images"
_OPTIONAL = ("age", "gender", "subject", "fold")
# A label column under another name is an error, because every face would silently lack that label.
_SYNONYMS = {
    "file": ("filename", "file_name", "file name", "filepath", "file_path", "path", "image", "image_path",
             "image_name", "img", "img_path", "img_name", "name"),
    "age": ("ages", "years", "age_years", "age (years)", "age_group"),
    "gender": ("sex", "genders"),
    "subject": ("subject_id", "subjectid", "subjects", "person", "person_id", "identity", "identity_id",
                "user_id"),
    "fold": ("folds", "fold_id", "kfold"),
}  # fmt: skip
_UNKNOWN = frozenset(
    {"", "unknown", "none", "nan", "null", "na", "n/a"}
)  # as spreadsheets and pandas write it
_GENDERS = {
    **dict.fromkeys(("m", "male", "man"), Gender.MALE),
    **dict.fromkeys(("f", "female", "woman"), Gender.FEMALE),
}
_YEARS = r"(\d{1,3}(?:[.,]\d+)?)"
_AGE = re.compile(rf"{_YEARS}(?:\s*[-\N{{EN DASH}}]\s*{_YEARS})?")
_ADIENCE_AGE = re.compile(rf"\({_YEARS}, {_YEARS}\)")
_AT_LEAST = re.compile(rf"(?:more than )?{_YEARS}\+?")
_NUMBER = re.compile(r"(-?\d+)(?:[.,]0*)?")  # pandas writes a column of integers with gaps as 0.0
_FOLDS = range(100)


def label_file(folder: Path) -> Path:
    return folder / "labels.csv"


def read(folder: Path, image_set: str, genders: Mapping[str, Gender] | None = None) -> Iterator[LabelRow]:
    """Yield the rows in order. An empty age or gender is unknown; a face needs at least one of them.

    genders : meaning of further words or numbers in the column `gender`.
    """
    words = {**_GENDERS, **{_plain(text): gender for text, gender in (genders or {}).items()}}
    for row in read_table(label_file(folder), ("file",), _OPTIONAL, _SYNONYMS):
        yield _labelled(row, words)


def _plain(text: str) -> str:
    """Return the text in lower case, and a whole number such as `1.0` as `1`."""
    return match[1] if (match := _NUMBER.fullmatch(text)) else text.strip().lower()


def _labelled(row: dict[str, str], words: Mapping[str, Gender]) -> LabelRow:
    file, age, subject = row["file"], row.get("age", "").lower(), row.get("subject", "")
    fold_text, gender_text = _plain(row.get("fold", "")), _plain(row.get("gender", ""))
    if row[SURPLUS]:  # an unquoted delimiter in a cell shifts the columns
        return Removed(file, Reason.BAD_ROW)
    if fold_text not in _UNKNOWN and not (fold_text.isascii() and fold_text.isdigit()):
        return Removed(file, Reason.BAD_FOLD)
    fold = NO_FOLD if fold_text in _UNKNOWN else int(fold_text[:9])
    if fold != NO_FOLD and fold not in _FOLDS:
        return Removed(file, Reason.BAD_FOLD)
    low = high = UNKNOWN_AGE
    if age not in _UNKNOWN:
        if (interval := age_interval(age)) is None:
            return Removed(file, Reason.NO_AGE, fold)
        low, high = interval
        if not low <= high <= MAX_AGE:
            return Removed(file, Reason.AGE_OUT_OF_RANGE, fold)
    gender = words.get(gender_text)
    if gender is None and gender_text not in _UNKNOWN:
        is_number = _NUMBER.fullmatch(gender_text) is not None
        return Removed(file, Reason.GENDER_NOT_MAPPED if is_number else Reason.NO_GENDER, fold)
    if gender is None and age in _UNKNOWN:
        return Removed(file, Reason.NO_AGE, fold)
    if not subject.isprintable():
        return Removed(file, Reason.BAD_ROW, fold)
    return LabelledImage(file, low, high, Gender.UNKNOWN if gender is None else gender, subject, fold)


def age_interval(text: str) -> tuple[float, float] | None:
    """Return the years of an age in one of the usual notations, or None if it is not an age.

    >>> age_interval("34,5"), age_interval("25 - 32"), age_interval("(25, 32)"), age_interval("more than 70")
    ((34.5, 34.5), (25.0, 32.0), (25.0, 32.0), (70.0, 100.0))
    """
    if match := _AGE.fullmatch(text) or _ADIENCE_AGE.fullmatch(text):
        low, high = match[1], match[2] or match[1]
        return float(low.replace(",", ".")), float(high.replace(",", "."))
    if match := _AT_LEAST.fullmatch(text):
        return float(match[1].replace(",", ".")), float(MAX_AGE)
    return None


def image_sets(folder: Path) -> list[str]:
    return [IMAGE_SET] if label_file(folder).is_file() else []


def _with_genders(genders: Mapping[str, Gender]) -> DatasetFormat:
    return replace(FORMAT, read=partial(read, genders=genders))


FORMAT = DatasetFormat(
    name="labels.csv",
    looks_for="a table: labels.csv with the columns file, age, gender and optionally subject and fold",
    image_sets=image_sets,
    image_dir=lambda folder, image_set: folder,
    read=read,
    with_genders=_with_genders,
)
