"""UTKFace (Zhang, Song and Qi 2017, arXiv:1702.08423): the file names are the labels.

Names have the form `[age]_[gender]_[race]_[time].jpg`; gender 0 is male and 1 female. Variations in
circulation are accepted: other endings (`.JPG`, `.jpeg`, `.png`, `.pg`), a missing dot
(`55_0_0_20170116232725357jpg`), a blank before the ending, and times of 16 or 18 digits. Four images lack
their gender or their race.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from agegender.labels import MAX_AGE, Gender

from trainer.datasets.labels import DatasetFormat, LabelledImage, LabelRow, Reason, Removed, is_image_name

IMAGE_SET = "images"
# Folders that the archives unpack to, in lower case; aligned crops before photographs.
_FOLDERS = (
    "utkface",
    "crop_part1",
    "utkface_aligned_cropped",
    "part1",
    "part2",
    "part3",
    "utkface_inthewild",
)
_DEPTH = 3
_NAME = re.compile(r"(?P<age>\d+)_(?P<labels>(?:\d*_)+)(?P<time>\d+)", re.ASCII)
_TIME_DIGITS = 14  # a shorter number is no time but an index, as in similar sets; no label is missing then
_ENDING = re.compile(r"(?:\s*\.?(?:jpe?g|png|pg|chip))+", re.IGNORECASE)
_OTHER_FILE = re.compile(r".*\.(?:csv|txt|json|md|mat|npy|npz|xml|zip|tar|gz)", re.IGNORECASE)
_GENDERS = {"0": Gender.MALE, "1": Gender.FEMALE}


def read(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the images folder by folder, in the order of their names. Subjects are unknown.

    The archives overlap, so an image whose name without its ending was read before is removed as repeated.
    """
    seen: set[str] = set()
    for place in _places(folder):
        names = sorted(entry.name for entry in os.scandir(folder / place) if entry.is_file())
        for name in names:
            match = _match(name)
            if match is None and not is_image_name(name):
                continue
            file = f"{place}/{name}" if place else name
            stem = _ENDING.split(name, maxsplit=1)[0]
            if match is not None and stem in seen:
                yield Removed(file, Reason.REPEATED_IMAGE)
                continue
            seen.add(stem)
            yield _labelled(file, match)


def _match(name: str) -> "re.Match[str] | None":
    return None if _OTHER_FILE.fullmatch(name) else _NAME.match(name)


def _places(folder: Path, place: str = "", depth: int = _DEPTH) -> Iterator[str]:
    """Yield the folder itself and, recursively, its folders that are named like those of the archives."""
    yield place
    if depth == 0:
        return
    with os.scandir(folder / place) as entries:
        found = [entry.name for entry in entries if entry.name.lower() in _FOLDERS and entry.is_dir()]
    for name in sorted(found, key=lambda name: (_FOLDERS.index(name.lower()), name)):
        yield from _places(folder, f"{place}/{name}" if place else name, depth - 1)


def _labels_in(name: str) -> LabelRow:
    return _labelled(name, _match(name))


def _labelled(file: str, match: "re.Match[str] | None") -> LabelRow:
    if match is None:
        return Removed(file, Reason.NO_AGE)
    if int(match["age"][:9]) > MAX_AGE:
        return Removed(file, Reason.AGE_OUT_OF_RANGE)
    years = float(match["age"])
    labels = match["labels"][:-1].split("_")
    if labels[0] == "" or (len(labels) == 1 and len(match["time"]) >= _TIME_DIGITS):
        # One label is missing, and which one is ambiguous: in 61_1_20170109142408075 the 1 is the gender; in
        # 39_1_20170116174525125 most people who looked at the image take it for the race.
        return LabelledImage(file, years, years, Gender.UNKNOWN)
    if (gender := _GENDERS.get(labels[0])) is None:
        return Removed(file, Reason.NO_GENDER)
    return LabelledImage(file, years, years, gender)


def image_sets(folder: Path) -> list[str]:
    for place in _places(folder):
        with os.scandir(folder / place) as entries:
            if any(isinstance(_labels_in(entry.name), LabelledImage) for entry in entries):
                return [IMAGE_SET]
    return []


FORMAT = DatasetFormat(
    name="utkface",
    looks_for="UTKFace: images named [age]_[gender]_[race]_[time].jpg, in the folder or in UTKFace/",
    image_sets=image_sets,
    image_dir=lambda folder, image_set: folder,
    read=read,
)
