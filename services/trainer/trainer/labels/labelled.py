"""What a reader of labels gives: images with their labels, and what was left out, with the reason."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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


class Reason(StrEnum):
    """Why an image of a data set is not among its extracted faces."""

    REPEATED_ROW = "repeated-row"
    BAD_FILE_NAME = "bad-file-name"
    BAD_ROW = "bad-row"
    NO_AGE = "no-age"
    AGE_OUT_OF_RANGE = "age-out-of-range"
    NO_GENDER = "no-gender"
    BAD_FOLD = "bad-fold"
    IMAGE_MISSING = "image-missing"
    IMAGE_TOO_LARGE = "image-too-large"
    UNREADABLE_IMAGE = "unreadable-image"
    NO_FACE = "no-face"
    SEVERAL_FACES = "several-faces"
    LOW_DETECTION_SCORE = "low-detection-score"


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
class DatasetKind:
    """How one kind of data set lies on disk.

    looks_for : the sentence that tells a user what would have been recognised.
    variants : the image folders of a data set; none where the folder is not of this kind.
    image_dir : of a data set's folder and variant.
    read : the rows of the labels, in their order, of a data set's folder and variant.
    min_det_score : faces found with a lower detection score are removed unless a request says otherwise.
    one_face_only : an image in which several faces are found is removed: whose label it is cannot be known.
    """

    name: str
    looks_for: str
    variants: Callable[[Path], list[str]]
    image_dir: Callable[[Path, str], Path]
    read: Callable[[Path, str], Iterator[LabelRow]]
    min_det_score: float = 0.0
    one_face_only: bool = False


def bad_labels(path: Path, what: str) -> Problem:
    """The labels cannot be read at all."""
    return Problem("bad-labels", 422, f"{path.parent.name}/{path.name}: {what}")


def checked_rows(rows: Iterable[LabelRow]) -> Iterator[LabelRow]:
    """Replace rows of a file named twice or perhaps outside the image folder, or of an endless subject."""
    seen: set[str] = set()
    for row in rows:
        if not is_safe_name(row.file):
            yield Removed(row.file[:_MAX_NAME], Reason.BAD_FILE_NAME, row.fold)
        elif isinstance(row, LabelledImage) and len(row.subject) > _MAX_SUBJECT:
            # All subjects get the room of the longest.
            yield Removed(row.file, Reason.BAD_ROW, row.fold)
        elif row.file in seen:
            yield Removed(row.file, Reason.REPEATED_ROW, row.fold)
        else:
            seen.add(row.file)
            yield row


def is_safe_name(file: str) -> bool:
    """Whether a relative name stays below its folder, on any system."""
    path = PurePosixPath(file)
    return (
        0 < len(file) <= _MAX_NAME
        and file.isprintable()
        and "\\" not in file
        and not path.is_absolute()
        and ".." not in path.parts
        and str(path) == file
        and path.name != ""
    )
