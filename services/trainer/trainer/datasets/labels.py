"""What a reader of labels gives: images with their labels, and what was left out, with the reason."""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath

from agegender.errors import Problem
from agegender.labels import Gender

NO_FOLD = -1
UNKNOWN_AGE = float("nan")
# The original's 0.9 belongs to its detector: with SCRFD-500MF none of 19,881 faces of UTKFace and
# All-Age-Faces reaches it (median 0.75 and 0.83). Below a half, a detector believes in no face rather.
DETECTED = 0.5
_MAX_NAME = 1024
_MAX_SUBJECT = 200
_DRIVE = re.compile(r"[A-Za-z]:/")  # an absolute name of Windows


class Reason(StrEnum):
    """Why an image of a data set is not among its extracted faces."""

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
    LINK_OUTSIDE = "link-outside"
    IMAGE_TOO_LARGE = "image-too-large"
    UNREADABLE_IMAGE = "unreadable-image"
    NO_FACE = "no-face"
    SEVERAL_FACES = "several-faces"
    LOW_DETECTION_SCORE = "low-detection-score"


REPEATED = frozenset({Reason.REPEATED_ROW, Reason.REPEATED_IMAGE})
# What to do about a reason, where the user can do something.
ADVICE: Mapping[str, str] = {
    Reason.BAD_FILE_NAME: "Write file names relative to the data set's folder.",
    Reason.GENDER_NOT_MAPPED: "Data sets disagree about what a gender written as a number means. Start the "
    "extraction again with its meaning: agegender extract NAME --gender 0=male --gender 1=female, or "
    '{"genders": {"0": "male", "1": "female"}} over HTTP, or the other way round.',
    Reason.IMAGE_MISSING: "Compare the file names in the labels with those in the folder.",
    Reason.LINK_OUTSIDE: "The links lead out of the data folder; put the images themselves there.",
}


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One face image of a data set.

    file : relative to the image folder, with '/'.
    age_low, age_high : years; equal for an exact age, NaN where the age is unknown.
    subject : whom folds must not divide; empty where unknown.
    fold : the data set's own, `NO_FOLD` where it has none.
    """

    file: str
    age_low: float
    age_high: float
    gender: Gender
    subject: str = ""
    fold: int = NO_FOLD


@dataclass(frozen=True, slots=True)
class Removed:
    """One row of the labels that gives no face, and why."""

    file: str
    reason: Reason
    fold: int = NO_FOLD


LabelRow = LabelledImage | Removed


@dataclass(frozen=True)
class DatasetFormat:
    """How one kind of data set lies on disk.

    looks_for : the sentence that tells a user what would have been recognised.
    variants : the image folders of a data set; none where the folder is not of this kind.
    image_dir : of a data set's folder and variant.
    read : the rows of the labels, in their order, of a data set's folder and variant.
    min_det_score : faces found with a lower detection score are removed unless a request says otherwise.
    one_face_only : an image in which several faces are found is removed: whose label it is cannot be known.
    with_genders : the same kind, which reads genders by a map (text in the labels → gender) before its own
        words; None where the labels have no text for genders.
    """

    name: str
    looks_for: str
    variants: Callable[[Path], list[str]]
    image_dir: Callable[[Path, str], Path]
    read: Callable[[Path, str], Iterator[LabelRow]]
    min_det_score: float = 0.0
    one_face_only: bool = False
    with_genders: "Callable[[Mapping[str, Gender]], DatasetFormat] | None" = None

    def reading(self, genders: Mapping[str, str]) -> "DatasetFormat":
        """The same kind with a map of genders ("0" → "male"), if one is given.

        Raises ``invalid-request`` 422 for a kind whose genders stand fast.
        """
        if not genders:
            return self
        if self.with_genders is None:
            detail = f"genders: the labels of {self.name} say what a gender is; leave the option out."
            errors = [{"field": "genders", "message": "only for a labels.csv"}]
            raise Problem("invalid-request", 422, detail, errors=errors)
        return self.with_genders({text: Gender[name.upper()] for text, name in genders.items()})


def bad_labels(path: Path, what: str) -> Problem:
    """The labels cannot be read at all."""
    return Problem("bad-labels", 422, f"{path.parent.name}/{path.name}: {what}")


def checked_rows(rows: Iterable[LabelRow], root: Path | None = None) -> Iterator[LabelRow]:
    """Normalize file names; remove rows of repeated files, files outside the folder and endless subjects.

    root : the image folder; absolute names below it are made relative. Without it, none is.
    """
    seen: set[str] = set()
    roots = [] if root is None else [root.absolute().as_posix(), root.resolve().as_posix()]
    for given in rows:
        row = replace(given, file=_normalized(given.file, roots))
        if not is_safe_name(row.file):
            yield Removed(given.file[:_MAX_NAME], Reason.BAD_FILE_NAME, row.fold)
        elif isinstance(row, LabelledImage) and len(row.subject) > _MAX_SUBJECT:
            # All subjects get the room of the longest.
            yield Removed(row.file, Reason.BAD_ROW, row.fold)
        elif row.file in seen:
            yield Removed(row.file, Reason.REPEATED_ROW, row.fold)
        else:
            seen.add(row.file)
            yield row


def _normalized(file: str, roots: Iterable[str]) -> str:
    """A name with `/`, without `.`, `..` and doubled separators; relative where it is below a root."""
    if not 0 < len(file) <= _MAX_NAME:
        return file
    name = posixpath.normpath(file.replace("\\", "/"))
    return next((name.removeprefix(f"{root}/") for root in roots if name.startswith(f"{root}/")), name)


def is_safe_name(file: str) -> bool:
    """Whether a relative name stays below its folder, on any system."""
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


def removal_summary(
    kept: int, removed: Mapping[str, int], examples: Mapping[str, str] | None = None, noun: str = "faces"
) -> str:
    """Return one sentence with the counts, most frequent reason first.

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
