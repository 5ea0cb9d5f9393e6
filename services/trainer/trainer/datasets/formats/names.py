"""Data sets whose labels are in the names of files and folders.

- UTKFace (Zhang, Song and Qi 2017, arXiv:1702.08423): `[age]_[gender]_[race]_[time].jpg`; gender 0 is male
  and 1 female. Variations in circulation are accepted: other endings (`.JPG`, `.jpeg`, `.png`, `.pg`), a
  missing dot (`55_0_0_20170116232725357jpg`), a blank before the ending, and times of 16 or 18 digits. Four
  images lack their gender or their race. Similar sets have a number instead of the time, and no race.
- AgeDB (Moschoglou et al. 2017, doi:10.1109/CVPRW.2017.250): `[number]_[name]_[age]_[m or f].jpg`; some names
  have blanks before an underscore, or Cyrillic letters.
- MORPH (Ricanek and Tesafaye 2006, doi:10.1109/FGR.2006.78): `[person]_[number][M or F][age].JPG`.
- CACD (Chen, Chen and Hsu 2014, doi:10.1007/978-3-319-10599-4_49): `[age]_[name]_[number].jpg`, no gender.
- FG-NET: `[person]A[age].JPG`, with a letter if there are several, no gender.
- All-Age-Faces (Cheng et al. 2019): `[number]A[age].jpg`; up to number
  7380 female.
- Class folders, such as `25/female/x.jpg` or `train/men/x.jpg`, and AFAD (Niu et al. 2016,
  doi:10.1109/CVPR.2016.532): `[age]/111/x.jpg` for male, `112` for female.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from agegender.labels import MAX_AGE, Gender

from trainer.datasets.formats.table_files import SPLITS
from trainer.datasets.formats.tables import GENDERS, age_interval, gender_words, is_number, plain
from trainer.datasets.labels import (
    UNKNOWN_AGE,
    DatasetFormat,
    LabelledImage,
    LabelRow,
    Reason,
    Removed,
    images_below,
    is_image_name,
)

IMAGE_SET = "images"
# Folders that UTKFace's archives unpack to, in lower case; aligned crops before photographs.
_FOLDERS = (
    "utkface",
    "crop_part1",
    "utkface_aligned_cropped",
    "part1",
    "part2",
    "part3",
    "utkface_inthewild",
)
# Ages have no leading zeros, in contrast to the numbers of persons.
_NAME = re.compile(
    r"(?P<age>0|[1-9]\d{0,2})_(?P<gender>\d?)_(?:(?P<race>\d?)_)?(?P<time>\d+)(?P<rest>(?s:.*))", re.ASCII
)
_TIME_DIGITS = 14  # a shorter number is no time but an index, as in similar sets; no label is missing then
_DAY_MONTH_YEAR = re.compile(r"(?:[1-9]|[12]\d|3[01])_[1-9]_(?:19|20)\d\d(?!\d)")
_DAY = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_REST = re.compile(r"(?:\s*\.?(?:jpe?g|png|pg|chip))*(?:\.[a-z][a-z\d]{0,4})?", re.IGNORECASE)
_ENDING = re.compile(r"(?:\s*\.?(?:jpe?g|png|pg|chip))+", re.IGNORECASE)
_OTHER_FILE = re.compile(r".*\.(?:csv|txt|json|md|mat|npy|npz|xml|zip|tar|gz)", re.IGNORECASE)
_GENDERS = {"0": Gender.MALE, "1": Gender.FEMALE}

_AGEDB = re.compile(r"\d+\s*_\s*(?P<subject>.+?)\s*_\s*(?P<age>\d+)\s*_\s*(?P<gender>[mf])", re.IGNORECASE)
_MORPH = re.compile(r"(?P<subject>\d+)_(?P<number>\d+)(?P<gender>[MF])(?P<age>\d{2,3})", re.IGNORECASE)
_CACD = re.compile(r"(?P<age>[1-9]\d{0,2})_(?P<subject>[^\d_].*)_\d{4}")
_FG_NET = re.compile(r"(?P<subject>\d{3})A(?P<age>\d{2})[a-z]?", re.IGNORECASE)
_ALL_AGE_FACES = re.compile(r"(?P<number>\d{5})A(?P<age>\d{2})")
_LAST_FEMALE = 7380  # of All-Age-Faces
_AFAD_GENDERS = {"111": Gender.MALE, "112": Gender.FEMALE}
_GENDER_CODES = ({"0", "1"}, {"1", "2"})
_SAMPLE, _LEAST_SHARE = 60, 0.75
_MAX_DEPTH = 4
_SPLITS = frozenset({"images", "image", "data", "faces", "dataset", "training", "validation"}).union(SPLITS)


def read_utkface(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the images folder by folder, those of the archives first. Subjects are unknown.

    The archives overlap, so an image whose name without its ending was read before is removed as repeated.
    """
    seen: set[str] = set()
    for place, names in _places(folder):
        for name in names:
            file = f"{place}/{name}" if place else name
            match = _match(file)
            stem = _ENDING.split(name, maxsplit=1)[0]
            if match is not None and stem in seen:
                yield Removed(file, Reason.REPEATED_IMAGE)
                continue
            seen.add(stem)
            yield _labelled(file, match)


def _match(file: str) -> "re.Match[str] | None":
    """Match a file's name; None for a date.

    A number instead of the time counts in the archives' folders only, with nothing but the ending after it.
    """
    place, _, name = file.rpartition("/")
    match = None if _OTHER_FILE.fullmatch(name) else _NAME.fullmatch(name)
    if match is None or len(match["time"]) >= _TIME_DIGITS:
        return match
    is_date = match["race"] is None and (_DAY_MONTH_YEAR.match(name) or _DAY.fullmatch(match["time"]))
    is_known = place == "" or set(place.lower().split("/")) <= set(_FOLDERS)
    return match if is_known and not is_date and _REST.fullmatch(match["rest"]) else None


def _places(folder: Path, place: str = "", depth: int = _MAX_DEPTH) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and, recursively, its folders, each with the sorted names of its images.

    Folders named like those of the archives precede the others, and may be links.
    """
    with os.scandir(folder / place) as entries:
        found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    yield place, [e.name for e in found if (is_image_name(e.name) or _match(e.name)) and e.is_file()]
    ranks = {entry: (*_FOLDERS, entry.name.lower()).index(entry.name.lower()) for entry in found}
    for entry in sorted(found, key=lambda entry: ranks[entry]):
        if depth > 0 and entry.is_dir(follow_symlinks=ranks[entry] < len(_FOLDERS)):
            yield from _places(folder, f"{place}/{entry.name}" if place else entry.name, depth - 1)


def _labelled(file: str, match: "re.Match[str] | None") -> LabelRow:
    if match is None:
        return Removed(file, Reason.NO_AGE)
    if int(match["age"]) > MAX_AGE:
        return Removed(file, Reason.AGE_OUT_OF_RANGE)
    years = float(match["age"])
    if match["gender"] == "" or (match["race"] is None and len(match["time"]) >= _TIME_DIGITS):
        # One label is missing, and which one is ambiguous: in 61_1_20170109142408075 the 1 is the gender; in
        # 39_1_20170116174525125 most people who looked at the image take it for the race.
        return LabelledImage(file, years, years, Gender.UNKNOWN)
    if (gender := _GENDERS.get(match["gender"])) is None:
        return Removed(file, Reason.NO_GENDER)
    return LabelledImage(file, years, years, gender)


def _utkface_image_sets(folder: Path) -> list[str]:
    """Return the image set if most images of the first folders are named so; samples each folder evenly."""
    images = usable = named = 0.0
    for place, names in _places(folder):
        sample = names[:: max(1, -(-len(names) // _SAMPLE))]
        for name in sample:
            match = _match(f"{place}/{name}" if place else name)
            is_usable = isinstance(_labelled(name, match), LabelledImage)
            usable += is_usable
            if is_usable or (match is not None and len(match["time"]) >= _TIME_DIGITS):
                named += len(names) / len(sample)
        images += len(names)
        if images >= _SAMPLE:
            break
    return [IMAGE_SET] if usable and named >= _LEAST_SHARE * images else []


Reader = Callable[[str], LabelRow]


def _read(labels: Reader, folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield what each image's path is read as."""
    return (labels(file) for file in images_below(folder, _MAX_DEPTH))


def _image_sets(labels: Reader, folder: Path) -> list[str]:
    """Return the image set if most of the first images have labels in their names."""
    sample = [labels(file) for file in islice(images_below(folder, _MAX_DEPTH), _SAMPLE)]
    labelled = sum(isinstance(row, LabelledImage) for row in sample)
    return [IMAGE_SET] if labelled and labelled >= _LEAST_SHARE * len(sample) else []


def _in_name(
    pattern: "re.Pattern[str]", gender: Callable[["re.Match[str]"], Gender] = lambda match: Gender.UNKNOWN
) -> Reader:
    """Return the reader of a pattern with the groups `age` and, if it names persons, `subject`."""

    def labels(file: str) -> LabelRow:
        stem = _ENDING.split(file.rpartition("/")[2], maxsplit=1)[0].strip()
        if (match := pattern.fullmatch(stem)) is None:
            return Removed(file, Reason.NO_AGE)
        if (age := int(match["age"][:9])) > MAX_AGE:
            return Removed(file, Reason.AGE_OUT_OF_RANGE)
        return LabelledImage(file, age, age, gender(match), match.groupdict().get("subject", ""))

    return labels


def _letter(match: "re.Match[str]") -> Gender:
    return GENDERS[match["gender"].lower()]


def _by_number(match: "re.Match[str]") -> Gender:
    return Gender.FEMALE if int(match["number"]) <= _LAST_FEMALE else Gender.MALE


def in_folders(file: str, words: Mapping[str, Gender], codes: bool) -> LabelRow:
    """Return the labels in the names of an image's folders, such as `25/female` and `25-32/m`.

    words : gender word → gender. codes : whether `0`, `1` and `2` are genders and not ages.
    """
    age: tuple[float, float] | None = None
    gender: Gender | None = None
    reason = Reason.NO_AGE
    for part in file.split("/")[:-1]:
        text = plain(part)
        if text in words:
            gender = words[text]
        elif age is not None and text in _AFAD_GENDERS:
            gender = _AFAD_GENDERS[text]
        elif codes and is_number(text):
            reason = Reason.GENDER_NOT_MAPPED
        elif age is None:
            age = age_interval(text)
    if reason is Reason.GENDER_NOT_MAPPED or (age is None and gender is None):
        return Removed(file, reason)
    low, high = (UNKNOWN_AGE, UNKNOWN_AGE) if age is None else age
    if high > MAX_AGE or low > high:
        return Removed(file, Reason.AGE_OUT_OF_RANGE)
    return LabelledImage(file, low, high, Gender.UNKNOWN if gender is None else gender)


def _class_names(folder: Path, depth: int = _MAX_DEPTH) -> set[str]:
    """Return the names of the outermost folders that are not splits, in lower case."""
    with os.scandir(folder) as entries:
        folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != "."]
    splits = [Path(entry.path) for entry in folders if entry.name.lower() in _SPLITS and depth > 0]
    return {entry.name.lower() for entry in folders if entry.name.lower() not in _SPLITS}.union(
        *(_class_names(split, depth - 1) for split in splits)
    )


def _folder_reader(folder: Path, genders: Mapping[str, Gender]) -> Reader:
    numbers = {name for name in _class_names(folder) if is_number(name)}
    return partial(in_folders, words=gender_words(genders), codes=numbers in _GENDER_CODES)


def _read_folders(
    folder: Path, image_set: str, genders: Mapping[str, Gender] | None = None
) -> Iterator[LabelRow]:
    return _read(_folder_reader(folder, genders or {}), folder, image_set)


def _folder_image_sets(folder: Path) -> list[str]:
    """Return the image set if folders are named by ages or genders.

    Folders that are merely numbered, such as `00` to `99` or `1` to `500`, are not taken for ages.
    """
    names = _class_names(folder)
    numbers = {name for name in names if is_number(name)}
    if any((len(name) > 1 and name[0] == "0") or int(plain(name)[:9]) > MAX_AGE for name in numbers):
        return []
    classes = {name for name in names if name in GENDERS or age_interval(name) is not None}
    sample = [_folder_reader(folder, {})(file) for file in islice(images_below(folder, _MAX_DEPTH), _SAMPLE)]
    readable = [row for row in sample if isinstance(row, LabelledImage) or row.reason != Reason.NO_AGE]
    return [IMAGE_SET] if classes and len(readable) >= _LEAST_SHARE * len(sample) > 0 else []


def _format(name: str, looks_for: str, labels: Reader) -> DatasetFormat:
    return DatasetFormat(
        name=name,
        looks_for=looks_for,
        image_sets=partial(_image_sets, labels),
        image_dir=lambda folder, image_set: folder,
        read=partial(_read, labels),
    )


UTKFACE = DatasetFormat(
    name="utkface",
    looks_for="UTKFace: images named [age]_[gender]_[race]_[time].jpg, in the folder or in UTKFace/",
    image_sets=_utkface_image_sets,
    image_dir=lambda folder, image_set: folder,
    read=read_utkface,
)
AGEDB = _format("agedb", "AgeDB: images named [number]_[name]_[age]_[m or f].jpg", _in_name(_AGEDB, _letter))
MORPH = _format("morph", "MORPH: images named [person]_[number][M or F][age].JPG", _in_name(_MORPH, _letter))
CACD = _format("cacd", "CACD: images named [age]_[name]_[number].jpg", _in_name(_CACD))
FG_NET = _format("fg-net", "FG-NET: images named [person]A[age].JPG", _in_name(_FG_NET))
ALL_AGE_FACES = _format(
    "all-age-faces", "All-Age-Faces: images named [number]A[age].jpg", _in_name(_ALL_AGE_FACES, _by_number)
)
_CLASS_FOLDERS = DatasetFormat(
    name="class-folders",
    looks_for="class folders named by age or gender, such as 25/female, men or 60+",
    image_sets=_folder_image_sets,
    image_dir=lambda folder, image_set: folder,
    read=_read_folders,
)
CLASS_FOLDERS = replace(
    _CLASS_FOLDERS,
    with_genders=lambda genders: replace(_CLASS_FOLDERS, read=partial(_read_folders, genders=genders)),
)
FORMATS = (UTKFACE, AGEDB, MORPH, CACD, FG_NET, ALL_AGE_FACES, CLASS_FOLDERS)
