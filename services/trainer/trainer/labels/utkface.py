"""UTKFace (Zhang, Song and Qi 2017, arXiv:1702.08423): labels stand in the file names.

`[age]_[gender]_[race]_[time].jpg`, with gender 0 for male and 1 for female.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from agegender.labels import MAX_AGE, Gender

from trainer.labels.labelled import DatasetKind, LabelledImage, LabelRow, Reason, Removed

VARIANT = "images"
# Where the archives of the data set put the images: the folder itself, UTKFace/, or part1/ to part3/.
_FOLDERS = ("", "UTKFace", "utkface", "crop_part1", "part1", "part2", "part3")
_IMAGE = re.compile(r"(\d+)_.*\.jpe?g", re.IGNORECASE)
# A few names lack the race (39_1_20170116174525125.jpg.chip.jpg); the gender still stands second.
_AGE_AND_GENDER = re.compile(r"(\d{1,3})_([01])_(?:\d_)?\d+\.jpg", re.IGNORECASE)
_GENDERS = {"0": Gender.MALE, "1": Gender.FEMALE}


def read(folder: Path, variant: str) -> Iterator[LabelRow]:
    """Images in the order of their names. Nobody knows the subjects."""
    for place in _FOLDERS:
        directory = folder / place
        if not directory.is_dir():
            continue
        for name in sorted(entry.name for entry in os.scandir(directory) if _IMAGE.fullmatch(entry.name)):
            yield _labelled(f"{place}/{name}" if place else name, name)


def _labelled(file: str, name: str) -> LabelRow:
    match = _AGE_AND_GENDER.match(name)
    if match is None:
        return Removed(file, Reason.NO_GENDER)
    years = float(match[1])
    if years > MAX_AGE:
        return Removed(file, Reason.AGE_OUT_OF_RANGE)
    return LabelledImage(file, years, years, _GENDERS[match[2]])


def variants(folder: Path) -> list[str]:
    for directory in (folder / place for place in _FOLDERS):
        if directory.is_dir():
            with os.scandir(directory) as entries:
                if any(_AGE_AND_GENDER.match(entry.name) for entry in entries):
                    return [VARIANT]
    return []


KIND = DatasetKind(
    name="utkface",
    looks_for="UTKFace: images named [age]_[gender]_[race]_[time].jpg, in the folder or in UTKFace/",
    variants=variants,
    image_dir=lambda folder, variant: folder,
    read=read,
)
