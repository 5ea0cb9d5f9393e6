"""Rows of labels: images with their labels, removed rows with the reason, and what a label format is."""

import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath

from agegender.errors import Problem
from agegender.labels import GENDER_NAMES, MAX_AGE, Gender

NO_FOLD = -1
UNKNOWN_AGE = float("nan")
# The original's minimum, 0.9, suits its detector only: with SCRFD-500MF none of 19,881 faces of UTKFace and
# All-Age-Faces reaches it (median 0.75 and 0.83). Below 0.5, the detector itself votes against a face.
DETECTED = 0.5
_MAX_NAME = 1024
_MAX_SUBJECT = 200
_LONGEST_EXAMPLE = 120
_IMAGE = re.compile(r"[^.].*\.(?:jpe?g|jfif|png|webp|bmp|gif|tiff?|heic|avif)", re.IGNORECASE | re.DOTALL)
_YEARS = r"(\d{1,3}(?:[.,]\d+)?)"
_AGE = re.compile(rf"{_YEARS}(?:\s*[-\N{{EN DASH}}]\s*{_YEARS})?")
_BARE_YEARS = re.compile(_YEARS)
_PAIR = re.compile(rf"[(\[]{_YEARS}, ?{_YEARS}[)\]]")
_AT_LEAST = re.compile(rf"(?:more than )?{_YEARS}\+?")
_UNIT = re.compile(r"(?<=[\d+)])\s*(?:years?(?: old)?|yrs?|y\.?o\.?|y)$")
_DECADE = re.compile(r"([1-9]0)'?s")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(rf"(\d{{1,2}})-({'|'.join(_MONTHS)})|({'|'.join(_MONTHS)})-(\d{{1,2}})")
_DRIVE = re.compile(r"[A-Za-z]:/")  # an absolute path on Windows


class Reason(StrEnum):
    """Why a row of the labels has no extracted face."""

    REPEATED_ROW = "repeated-row"
    REPEATED_IMAGE = "repeated-image"
    BAD_FILE_NAME = "bad-file-name"
    BAD_ROW = "bad-row"
    NO_AGE = "no-age"
    AGE_OUT_OF_RANGE = "age-out-of-range"
    NO_GENDER = "no-gender"
    GENDER_NOT_MAPPED = "gender-not-mapped"
    BAD_FOLD = "bad-fold"
    IMAGE_MISSING = "image-missing"
    IMAGE_NOT_HELD = "image-not-held"
    LINK_OUTSIDE = "link-outside"
    IMAGE_TOO_LARGE = "image-too-large"
    UNREADABLE_IMAGE = "unreadable-image"
    NO_FACE = "no-face"
    SEVERAL_FACES = "several-faces"
    LOW_DETECTION_SCORE = "low-detection-score"


REPEATED = frozenset({Reason.REPEATED_ROW, Reason.REPEATED_IMAGE})
# What the user can do about a reason.
ADVICE: Mapping[str, str] = {
    Reason.NO_AGE: "Write an age as years (34) or as a range (25-32, 70+).",
    Reason.AGE_OUT_OF_RANGE: f"Ages are 0 to {MAX_AGE} years.",
    Reason.NO_GENDER: "Write a gender as f or m, female or male; or state the meaning of other words: "
    'agegender extract NAME --gender Frau=female, or {"genders": {"Frau": "female"}} over HTTP.',
    Reason.BAD_FOLD: "Write a fold as a number from 0 to 99, or leave the column out: five are made then.",
    Reason.BAD_ROW: "Put cells that contain the delimiter into quotes.",
    Reason.BAD_FILE_NAME: "Write file names relative to the data set's folder.",
    Reason.GENDER_NOT_MAPPED: "Data sets disagree about what a gender written as a number means. Start the "
    "extraction again with the meaning: agegender extract NAME --gender 0=male --gender 1=female, or "
    '{"genders": {"0": "male", "1": "female"}} over HTTP, or the other way round.',
    Reason.IMAGE_MISSING: "Compare the file names in the labels with those in the folder; agegender import "
    "NAME also finds them by their last folders, and by their names alone if no path of the labels fits.",
    Reason.IMAGE_NOT_HELD: "The Parquet file holds no images, only the paths where its writer had them, as "
    "to_parquet() of datasets 5 writes. Write the images into it: dataset.with_format('arrow')"
    ".map(datasets.table.embed_table_storage, batched=True).to_parquet(...). Or put the images into "
    "the folder and run agegender import NAME, which finds them by name.",
    Reason.LINK_OUTSIDE: "The links lead out of the data folder; put the images themselves into it.",
}


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One labelled image of a data set.

    Attributes
    ----------
    file : path relative to the image folder, with `/`.
    age_low, age_high : years; equal for an exact age, NaN if the age is unknown.
    subject : person, or other group that must stay in one fold; empty if unknown.
    fold : fold that the data set defines, or `NO_FOLD`.
    """

    file: str
    age_low: float
    age_high: float
    gender: Gender
    subject: str = ""
    fold: int = NO_FOLD


@dataclass(frozen=True, slots=True)
class Removed:
    """One row of the labels that is not used, the reason, and the cell that is the reason, if it is one."""

    file: str
    reason: Reason
    fold: int = NO_FOLD
    cell: str = ""


LabelRow = LabelledImage | Removed


@dataclass(frozen=True)
class DatasetFormat:
    """A label format: its recognition and its reader.

    Attributes
    ----------
    name : name of the format, as the API reports it.
    looks_for : description of the files that identify the format, for the error message.
    image_sets : data set's folder → its image sets; empty if the folder does not have this format.
    image_dir : data set's folder, image set → folder of the images.
    read : data set's folder, image set → rows of the labels, in order.
    min_det_score : faces with a lower detection score are removed, unless a request sets another minimum.
    one_face_only : whether to remove images with several faces, because the label may belong to any of them.
    unpack : data set's folder, image set, function to call before each image → None; writes the images that
        the labels hold themselves. None if they are files already.
    with_genders : map of further gender words (text → gender) → this format with that map; None if the
        labels do not write genders as text.
    """

    name: str
    looks_for: str
    image_sets: Callable[[Path], list[str]]
    image_dir: Callable[[Path, str], Path]
    read: Callable[[Path, str], Iterator[LabelRow]]
    min_det_score: float = 0.0
    one_face_only: bool = False
    unpack: Callable[[Path, str, Callable[[], None]], None] | None = None
    with_genders: "Callable[[Mapping[str, Gender]], DatasetFormat] | None" = None

    def with_gender_map(self, genders: Mapping[str, str]) -> "DatasetFormat":
        """Return the format with a map of gender words ("0" → "male"); unchanged if the map is empty.

        Raises ``invalid-request`` 422 for a format with fixed genders.
        """
        if not genders:
            return self
        if self.with_genders is None:
            detail = f"genders: the label format {self.name} defines its genders; omit this option."
            errors = [{"field": "genders", "message": "only for labels.csv"}]
            raise Problem("invalid-request", 422, detail, errors=errors)
        mapped = self.with_genders({text: Gender[name.upper()] for text, name in genders.items()})
        return replace(mapped, min_det_score=self.min_det_score, one_face_only=self.one_face_only)


def bad_labels(path: Path, what: str) -> Problem:
    """Return the problem for a label file that cannot be read."""
    return Problem("bad-labels", 422, f"{path.parent.name}/{path.name}: {what}")


def require_inside(path: Path) -> None:
    """Raise ``bad-labels`` if a label file is a link out of its folder and the folder above.

    Errors and proposals show what is in a label file.
    """
    target, roots = path.resolve(), (path.parent.resolve(), path.parent.parent.resolve())
    if not any(target.is_relative_to(root) for root in roots):
        raise bad_labels(path, "it is a link that leads out of the data folder; put the file itself there")


def checked_rows(rows: Iterable[LabelRow], root: Path | None = None) -> Iterator[LabelRow]:
    """Normalize file names; remove rows with repeated files, unsafe file names or overlong subjects.

    root : image folder; absolute names below it become relative. Without it, they are rejected.
    """
    seen: set[str] = set()
    roots = [] if root is None else [root.absolute().as_posix(), root.resolve().as_posix()]
    for given in rows:
        row = replace(given, file=_normalized(given.file, roots))
        if not is_safe_name(row.file):
            yield Removed(given.file[:_MAX_NAME], Reason.BAD_FILE_NAME, row.fold)
        elif isinstance(row, LabelledImage) and len(row.subject) > _MAX_SUBJECT:
            # NumPy stores every subject in the width of the longest.
            yield Removed(row.file, Reason.BAD_ROW, row.fold)
        elif row.file in seen:
            yield Removed(row.file, Reason.REPEATED_ROW, row.fold)
        else:
            seen.add(row.file)
            yield row


def _normalized(file: str, roots: Iterable[str]) -> str:
    """Return a name with `/`, without `.`, `..` and doubled separators, relative to its root if any."""
    if not 0 < len(file) <= _MAX_NAME:
        return file
    name = posixpath.normpath(file.replace("\\", "/"))
    return next((name.removeprefix(f"{root}/") for root in roots if name.startswith(f"{root}/")), name)


def is_safe_name(file: str) -> bool:
    """Return whether a relative name stays below its folder on every operating system."""
    path = PurePosixPath(file)
    return (
        0 < len(file) <= _MAX_NAME
        and file.isprintable()
        and "\\" not in file
        and not path.is_absolute()
        and not _DRIVE.match(file)
        and ".." not in path.parts
        and str(path) == file
        and path.name != ""
    )


def is_image_name(name: str) -> bool:
    """Return whether a file name has the ending of an image, and is not hidden."""
    return _IMAGE.fullmatch(name) is not None


def age_interval(text: str) -> tuple[float, float] | None:
    """Return the years of an age in one of the usual notations, or None if it is not an age.

    Spreadsheets make dates of ranges: `3-Sep` and `9-Mar` of 3-9, `19-Oct` and `Oct-19` of 10-19.

    >>> age_interval("34,5"), age_interval("25 - 32"), age_interval("(25, 32)"), age_interval("more than 70")
    ((34.5, 34.5), (25.0, 32.0), (25.0, 32.0), (70.0, 100.0))
    >>> age_interval("03-Sep"), age_interval("Oct-19"), age_interval("young")
    ((3.0, 9.0), (10.0, 19.0), None)
    >>> age_interval("25 years"), age_interval("30-39 y"), age_interval("20s")
    ((25.0, 25.0), (30.0, 39.0), (20.0, 29.0))
    """
    text = _UNIT.sub("", text.strip().lower())
    if match := _DECADE.fullmatch(text):
        return float(match[1]), float(match[1]) + 9
    if match := _AGE.fullmatch(text) or _PAIR.fullmatch(text):
        low, high = match[1], match[2] or match[1]
        return float(low.replace(",", ".")), float(high.replace(",", "."))
    if match := _AT_LEAST.fullmatch(text):
        return float(match[1].replace(",", ".")), float(MAX_AGE)
    if match := _DATE.fullmatch(text):
        month = _MONTHS.index(match[2] or match[3]) + 1
        first, last = sorted((month, int(match[1] or match[4])))
        return float(first), float(last)
    return None


def is_age_range(text: str) -> bool:
    """Return whether a name is certainly of ages, as `25-32`, `60+` and `20s` are; no bare number, no date.

    >>> is_age_range("(25, 32)"), is_age_range("more than 70"), is_age_range("25"), is_age_range("12-jan")
    (True, True, False, False)
    """
    is_ambiguous = _BARE_YEARS.fullmatch(text) or _DATE.fullmatch(text)
    return not is_ambiguous and age_interval(text) is not None


def age_text(row: LabelledImage) -> str:
    if math.isnan(row.age_low):
        return ""
    low, high = (f"{years:g}" for years in (row.age_low, row.age_high))
    return low if low == high else f"{low}-{high}"


def gender_text(row: LabelledImage) -> str:
    return "" if row.gender == Gender.UNKNOWN else GENDER_NAMES[row.gender]


def images_below(folder: Path, depth: int, place: str = "") -> Iterator[str]:
    """Yield the paths of the images in a folder, and in its folders down to `depth` levels, in their order.

    Links to folders, and hidden folders, are omitted.
    """
    with os.scandir(folder / place) as entries:
        found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    for entry in found:
        path = f"{place}/{entry.name}" if place else entry.name
        if entry.is_dir(follow_symlinks=False):
            if depth > 0:
                yield from images_below(folder, depth - 1, path)
        elif is_image_name(entry.name):
            yield path


def removal_summary(
    kept: int, removed: Mapping[str, int], examples: Mapping[str, str] | None = None, noun: str = "faces"
) -> str:
    """Return one sentence with the counts, the most frequent reason first.

    >>> removal_summary(295, {"bad-fold": 1, "no-face": 4}, {"no-face": "a/b.jpg", "bad-fold": "c.jpg"})
    '295 of 300 faces (4 no-face, e.g. a/b.jpg; 1 bad-fold, e.g. c.jpg)'
    """
    reasons = [
        f"{count:,} {reason}" + (f", e.g. {examples[reason]}" if examples and reason in examples else "")
        for reason, count in sorted(removed.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]
    whole = f"{kept:,} of {kept + sum(removed.values()):,} {noun}"
    return f"{whole} ({'; '.join(reasons)})" if reasons else whole


@dataclass(frozen=True)
class Outcome:
    """Rows kept and removed by an extraction: part of its record, meta-data and problems."""

    faces: int
    removed: dict[str, int]
    removed_examples: dict[str, str]
    summary: str


@dataclass
class Removals:
    """Count removed rows or images by reason, and keep the first of each reason."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, file: str, cell: str = "") -> None:
        """Count an image. cell : the text in the labels that is the reason, if there is one."""
        self.counts[reason] += 1
        if reason not in self.examples:
            self.examples[reason] = _shown(file) + (f": {_shown(cell)!r}" if cell else "")

    def __add__(self, later: "Removals") -> "Removals":
        """Add the counts; the examples of the first operand win."""
        return Removals(self.counts + later.counts, {**later.examples, **self.examples})

    def outcome(self, faces: int, remarks: Iterable[str] = (), noun: str = "faces") -> Outcome:
        """Return the outcome if `faces` were kept.

        remarks : sentences about the kept faces, for the summary. noun : of what is counted.
        """
        return Outcome(
            faces=faces,
            removed=dict(sorted(self.counts.items())),
            removed_examples=dict(sorted(self.examples.items())),
            summary="; ".join([removal_summary(faces, self.counts, self.examples, noun), *remarks]),
        )

    def advice(self) -> str:
        """Return advice for the reasons, each sentence preceded by a blank."""
        return "".join(f" {ADVICE[reason]}" for reason in sorted(self.counts) if reason in ADVICE)


def _shown(text: str) -> str:
    """Make a file name or a cell safe and short enough to show in a terminal."""
    text = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
    return text if len(text) <= _LONGEST_EXAMPLE else f"{text[:_LONGEST_EXAMPLE]}…"
