"""FairFace (Kärkkäinen and Joo 2021, arXiv:1908.04913): two CSV files, ages in nine ranges."""

from collections.abc import Iterator
from pathlib import Path

from agegender.labels import Gender

from trainer.datasets.formats.table_files import read_table
from trainer.datasets.formats.tables import age_interval
from trainer.datasets.labels import DatasetFormat, LabelledImage, LabelRow, Reason, Removed

IMAGE_SET = "images"
# The training and validation files do not define folds; all rows are divided into five folds.
_LABEL_FILES = ("fairface_label_train.csv", "fairface_label_val.csv")
_GENDERS = {"male": Gender.MALE, "female": Gender.FEMALE}
_IMAGE_FOLDERS = "fairface-img-margin*"  # one per archive


def read(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the rows of the training file, then those of the validation file."""
    for name in _LABEL_FILES:
        if (folder / name).is_file():
            for row in read_table(folder / name, required=("file", "age", "gender")):
                yield _labelled(row)


def _labelled(row: dict[str, str]) -> LabelRow:
    file = row["file"]
    if (age := age_interval(row["age"])) is None:
        return Removed(file, Reason.NO_AGE)
    if (gender := _GENDERS.get(row["gender"].lower())) is None:
        return Removed(file, Reason.NO_GENDER)
    return LabelledImage(file, *age, gender)


def image_sets(folder: Path) -> list[str]:
    """Return `images` if the folder contains train/ or val/, and the folders that the archives unpack to."""
    if not any((folder / name).is_file() for name in _LABEL_FILES):
        return []
    unpacked = sorted(path.name for path in folder.glob(_IMAGE_FOLDERS) if path.is_dir())
    here = any((folder / name).is_dir() for name in ("train", "val"))
    return [IMAGE_SET, *unpacked] if here or not unpacked else unpacked


FORMAT = DatasetFormat(
    name="fairface",
    looks_for="FairFace: fairface_label_train.csv or fairface_label_val.csv, and images in train/ and val/",
    image_sets=image_sets,
    image_dir=lambda folder, image_set: folder if image_set == IMAGE_SET else folder / image_set,
    read=read,
)
