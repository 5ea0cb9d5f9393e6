"""Any folder of images with a `labels.csv`: file, age, gender, and optionally subject and fold."""

import re
from collections.abc import Iterator
from pathlib import Path

from agegender.labels import MAX_AGE, Gender

from trainer.labels.labelled import (
    NO_FOLD,
    UNKNOWN_AGE,
    DatasetKind,
    LabelledImage,
    LabelRow,
    Reason,
    Removed,
)
from trainer.labels.tables import read_table

VARIANT = "images"
_GENDERS = {"m": Gender.MALE, "male": Gender.MALE, "f": Gender.FEMALE, "female": Gender.FEMALE}
_AGE = re.compile(r"(\d{1,3}(?:\.\d+)?)(?:\s*-\s*(\d{1,3}(?:\.\d+)?))?")
_FOLD = re.compile(r"\d{1,2}")


def label_file(folder: Path) -> Path:
    return folder / "labels.csv"


def read(folder: Path, variant: str) -> Iterator[LabelRow]:
    """Rows in their order. A face needs one label: an empty age or gender is unknown, not an error."""
    for row in read_table(label_file(folder), required=("file",)):
        yield _labelled(row)


def _labelled(row: dict[str, str]) -> LabelRow:
    file, age, subject = row["file"], row.get("age", ""), row.get("subject", "")
    fold_text, gender_text = row.get("fold", ""), row.get("gender", "").lower()
    if fold_text and not _FOLD.fullmatch(fold_text):
        return Removed(file, Reason.BAD_FOLD)
    fold = int(fold_text) if fold_text else NO_FOLD
    low = high = UNKNOWN_AGE
    if age:
        if (match := _AGE.fullmatch(age)) is None:
            return Removed(file, Reason.NO_AGE, fold)
        low, high = float(match[1]), float(match[2] or match[1])
        if not low <= high <= MAX_AGE:
            return Removed(file, Reason.AGE_OUT_OF_RANGE, fold)
    if gender_text and gender_text not in _GENDERS:
        return Removed(file, Reason.NO_GENDER, fold)
    gender = _GENDERS.get(gender_text, Gender.UNKNOWN)
    if gender is Gender.UNKNOWN and not age:
        return Removed(file, Reason.NO_AGE, fold)
    if not subject.isprintable():
        return Removed(file, Reason.BAD_ROW, fold)
    return LabelledImage(file, low, high, gender, subject, fold)


def variants(folder: Path) -> list[str]:
    return [VARIANT] if label_file(folder).is_file() else []


KIND = DatasetKind(
    name="labels.csv",
    looks_for="a table: labels.csv with the columns file, age, gender and optionally subject and fold",
    variants=variants,
    image_dir=lambda folder, variant: folder,
    read=read,
)
