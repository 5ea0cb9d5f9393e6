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
- All-Age-Faces (Cheng et al. 2019): `[number]A[age].jpg`; up to number 7380 female.
- Class folders, such as `25/female/x.jpg` or `train/men/x.jpg`, and AFAD (Niu et al. 2016,
  doi:10.1109/CVPR.2016.532): `[age]/111/x.jpg` for male, `112` for female. Gender words and ranges of ages
  are labels in any folder. A plain number may be an age, a coded gender, a person or a class: all names at
  the same depth, where folders of splits such as `train` do not count, decide which.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from agegender.labels import MAX_AGE, Gender

from trainer.datasets.formats.table_files import SPLITS
from trainer.datasets.formats.tables import GENDERS, UNKNOWN, gender_words, plain
from trainer.datasets.labels import (
    UNKNOWN_AGE,
    DatasetFormat,
    LabelledImage,
    LabelRow,
    Reason,
    Removed,
    age_interval,
    images_below,
    is_age_range,
    is_image_name,
)

IMAGE_SET = "images"
# Folders that UTKFace's archives unpack to, in lower case; aligned crops before photographs.
_FOLDERS = (
    "utkface", "crop_part1", "utkface_aligned_cropped", "part1", "part2", "part3", "utkface_inthewild"
)  # fmt: skip
# Ages have no leading zeros, in contrast to the numbers of persons.
_NAME = re.compile(
    r"(?P<age>0|[1-9]\d{0,2})_(?P<gender>\d?)_(?:(?P<race>\d?)_)?(?P<time>\d+)(?P<rest>(?s:.*))", re.ASCII
)
_TIME_DIGITS = 14  # a shorter number is no time but an index, as in similar sets; no label is missing then
_DAY_MONTH_YEAR = re.compile(r"(?:[1-9]|[12]\d|3[01])_[1-9]_(?:19|20)\d\d(?!\d)")
_DAY = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_REST = re.compile(r"(?:\s*\.?(?:jpe?g|png|pg|chip))*(?:\.[a-z][a-z\d]{0,4})?", re.IGNORECASE)
_LONGER_REST = re.compile(
    r"(?:[\s.(-]|_\D).*", re.DOTALL
)  # such as ` (2).jpg`, where a race makes dates unlikely
_ENDING = re.compile(r"(?:\s*\.?(?:jpe?g|png|pg|chip))+", re.IGNORECASE)
_OTHER_FILE = re.compile(r".*\.(?:csv|txt|json|md|mat|npy|npz|xml|zip|tar|gz)", re.IGNORECASE)
_GENDERS = {"0": Gender.MALE, "1": Gender.FEMALE}

_AGEDB = re.compile(r"\d+\s*_\s*(?P<subject>.+?)\s*_\s*(?P<age>\d+)\s*_\s*(?P<gender>[mf])", re.IGNORECASE)
_MORPH = re.compile(r"(?P<subject>\d+)_(?P<number>\d+)(?P<gender>[MF])(?P<age>\d{2,3})", re.IGNORECASE)
_CACD = re.compile(r"(?P<age>[1-9]\d{0,2})_(?P<subject>[^\d_].*)_\d{4}")
_FG_NET = re.compile(r"(?P<subject>\d{3})A(?P<age>\d{2})[a-z]?", re.IGNORECASE)
_ALL_AGE_FACES = re.compile(r"(?P<number>\d{5})A(?P<age>\d{2})")
_LAST_FEMALE = 7380  # of All-Age-Faces
_AFAD_GENDERS, _GENDER_CODES = {"111": Gender.MALE, "112": Gender.FEMALE}, ({"0", "1"}, {"1", "2"})
_SAMPLE, _LEAST_SHARE, _MAX_DEPTH, _MOST_LISTED = 60, 0.75, 4, 1000  # the last two of folders
_BARE, _PADDED = re.compile(r"\d+(?:[.,]\d+)?"), re.compile(r"0\d")
# Persons and classes are numbered consecutively: from below 5, with at least half of the numbers up to the
# largest. Other numbers are ages if they reach 10. Consecutive ones are ages if they cover a life (to 80), or
# if most of them have folders of both genders and they reach 20.
_LEAST_OLDEST, _YOUNGEST, _LEAST_LIFE, _LEAST_WITH_GENDERS = 10, 5, 80, 20
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
    is_whole = _REST.fullmatch(match["rest"]) or (match["race"] and _LONGER_REST.match(match["rest"]))
    return match if is_known and not is_date and is_whole else None


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
    has_archive = any(path.name.lower() in _FOLDERS and path.is_dir() for path in folder.iterdir())
    for place, names in _places(folder):
        if has_archive and place.partition("/")[0].lower() not in _FOLDERS:
            continue  # other images may lie beside the archives' folders
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


class _Levels:
    """Decide what numbers mean as names of folders, from all names at each depth.

    words : gender word → gender; the user's `genders` are added to the usual ones.
    ages : depths at which plain numbers are ages.
    coded : depths at which plain numbers are genders. If there are several, it is unclear which one is meant.
    afad : depths at which AFAD's 111 and 112 are genders.
    """

    def __init__(self, paths: Collection[tuple[str, ...]], genders: Mapping[str, Gender]) -> None:
        self._paths, self.words = paths, gender_words(genders)
        depths = range(max(map(len, paths), default=0))
        names = [{path[depth] for path in paths if len(path) > depth} for depth in depths]
        self._names, self._numbers = names, [set(filter(_BARE.fullmatch, level)) for level in names]
        numbers = {depth: level for depth, level in enumerate(self._numbers) if level}
        mapped = set(filter(_BARE.fullmatch, map(plain, genders)))
        has_words = any(2 * sum(map(self._is_word, level)) >= len(level) for level in names)

        def where(fits: Callable[[set[str]], bool]) -> list[int]:
            return [depth for depth, level in numbers.items() if fits(level)]

        self.coded: list[int] = []
        if not has_words:
            self.coded = where(mapped.__eq__) or where(mapped.issuperset) or where(_GENDER_CODES.__contains__)
            self.coded = self.coded or where(lambda level: 2 * len(mapped & level) >= len(level))
        self.afad = [d for d in where(_AFAD_GENDERS.keys().__ge__) if d - 1 in numbers]
        ages = [depth for depth in numbers if depth not in self.coded and self._are_ages(depth)]
        self.ages = ages if self._agree(ages) else [d for d in ages if any(map(is_age_range, names[d]))]
        if ages and not mapped:  # 1 and 2 are takes rather than genders; a 0 is UTKFace's
            if not self.coded and not has_words:
                self.coded = [depth for depth in where(({"0"},).__contains__) if depth not in ages]
            self.coded = [depth for depth in self.coded if numbers[depth] != {"1", "2"}]

    def _is_word(self, text: str) -> bool:
        return text in self.words and not _BARE.fullmatch(text)

    def _are_ages(self, depth: int) -> bool:
        """Return whether the numbers at a depth are evidently ages, and not persons or classes."""
        numbers, ranges = self._numbers[depth], set(filter(is_age_range, self._names[depth]))
        others = self._names[depth] - numbers - ranges - self.words.keys() - UNKNOWN
        years = {float(text.replace(",", ".")) for text in numbers}
        oldest = max(years)
        if any(map(_PADDED.match, numbers)) or oldest > MAX_AGE:
            return False
        if len(numbers | ranges) < len(others):
            return False
        if ranges or depth + 1 in self.afad:
            return True
        if oldest < _LEAST_OLDEST:
            return False
        if min(years) >= _YOUNGEST or len(years - {0}) < oldest / 2:
            return True  # not numbered consecutively
        genders = set(self._genders_beside(depth))
        if len({text for *_, text in genders}) > 1:
            with_both = Counter(number for number, _, _ in genders)
            if sum(count > 1 for count in with_both.values()) < len(numbers) / 2:
                return False  # a person has one gender
            if all(at > depth for _, at, _ in genders):
                return oldest >= _LEAST_WITH_GENDERS
        return oldest >= _LEAST_LIFE

    def _genders_beside(self, depth: int) -> Iterator[tuple[str, int, object]]:
        """Yield each number at a depth with the depth of a gender above or below it, and the gender."""
        for path in [
            path for path in self._paths if len(path) > depth and path[depth] in self._numbers[depth]
        ]:
            for at, text in enumerate(path):
                if self._is_word(text):
                    yield path[depth], at, self.words[text]
                elif at in (*self.coded, *self.afad) and text in self._numbers[at]:
                    yield path[depth], at, text

    def _agree(self, ages: Collection[int]) -> bool:
        """Return whether hardly any path has two ages, as in [age]/[take] or [person]/[range of ages]."""
        numbers = [self._numbers[depth] if depth in ages else () for depth in range(len(self._names))]
        found = [
            sum(is_age_range(text) or text in level for text, level in zip(path, numbers, strict=False))
            for path in self._paths
        ]
        return sum(count > 1 for count in found) <= (1 - _LEAST_SHARE) * sum(count > 0 for count in found)

    def labels(self, file: str) -> LabelRow:
        """Return the labels in the names of an image's folders, such as `25/female` and `25-32/m`."""
        age: tuple[float, float] | None = None
        gender: Gender | None = None
        reason = Reason.NO_AGE
        for depth, text in enumerate(_class_path(file.split("/")[:-1])):
            is_bare = _BARE.fullmatch(text) is not None
            if depth in self.coded and is_bare:
                if text not in self.words:
                    reason = Reason.GENDER_NOT_MAPPED
                elif len(self.coded) > 1:
                    reason = Reason.NO_GENDER
                else:
                    gender = self.words[text]
            elif depth in self.afad and age is not None and text in _AFAD_GENDERS:
                gender = _AFAD_GENDERS[text]
            elif self._is_word(text):
                gender = self.words[text]
            elif age is None and (depth in self.ages if is_bare else is_age_range(text)):
                age = age_interval(text)
        if reason is not Reason.NO_AGE or (age is None and gender is None):
            return Removed(file, reason)
        low, high = (UNKNOWN_AGE, UNKNOWN_AGE) if age is None else age
        if high > MAX_AGE or low > high:
            return Removed(file, Reason.AGE_OUT_OF_RANGE)
        return LabelledImage(file, low, high, Gender.UNKNOWN if gender is None else gender)


def _class_path(folders: Iterable[str]) -> tuple[str, ...]:
    return tuple(plain(name) for name in folders if name.lower() not in _SPLITS)


def _class_paths(folder: Path) -> set[tuple[str, ...]]:
    """Return the names of the folders that lead to images, with those of their parents and without splits.

    The folders are listed depth by depth, but at most 1,000 of them, and none of a gender below an age.
    """
    paths: set[tuple[str, ...]] = set()
    places = [""]
    listed = 0
    for _ in range(_MAX_DEPTH + 1):
        below: list[str] = []
        for place in places:
            path = _class_path(place.split("/")[:-1])
            has_age = any(is_age_range(text) or (len(text) > 1 and _BARE.fullmatch(text)) for text in path)
            if listed == _MOST_LISTED or (has_age and (path[-1] in GENDERS or path[-1] in _AFAD_GENDERS)):
                paths.add(path)
                continue
            listed += 1
            with os.scandir(folder / place) as entries:
                found = [entry for entry in entries if entry.name[0] != "."]
            inside = sorted(f"{place}{e.name}/" for e in found if e.is_dir(follow_symlinks=False))
            below += inside
            if inside or any(is_image_name(entry.name) for entry in found):
                paths.add(path)
        places = below
    return paths


def _read_folders(
    folder: Path, image_set: str, genders: Mapping[str, Gender] | None = None
) -> Iterator[LabelRow]:
    return _read(_Levels(_class_paths(folder), genders or {}).labels, folder, image_set)


def _folder_image_sets(folder: Path) -> list[str]:
    """Return the image set if folders are named by ages or genders, and few images are without labels."""
    paths = _class_paths(folder)
    outermost = {path[0] for path in paths if path}
    if any(
        _PADDED.match(name) or float(name.replace(",", ".")) > MAX_AGE
        for name in filter(_BARE.fullmatch, outermost)
    ):
        return []
    labels = _Levels(paths, {}).labels
    sample = [labels(file) for file in islice(images_below(folder, _MAX_DEPTH), _SAMPLE)]
    readable = [row for row in sample if isinstance(row, LabelledImage) or row.reason != Reason.NO_AGE]
    classes = [name for name in outermost if name in GENDERS or age_interval(name) is not None]
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
    looks_for="class folders named by age or gender, such as 25/female, men or 60+ (numbers that may be of "
    "persons or classes, such as 1 to 40, are no ages: write labels.csv, or rename them to 1-1, 2-2, …)",
    image_sets=_folder_image_sets,
    image_dir=lambda folder, image_set: folder,
    read=_read_folders,
)
CLASS_FOLDERS = replace(
    _CLASS_FOLDERS,
    with_genders=lambda genders: replace(_CLASS_FOLDERS, read=partial(_read_folders, genders=genders)),
)
FORMATS = (UTKFACE, AGEDB, MORPH, CACD, FG_NET, ALL_AGE_FACES, CLASS_FOLDERS)
