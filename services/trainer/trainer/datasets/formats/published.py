"""Published data sets with label files of their own form.

- Adience (Eidinger, Enbar and Hassner 2014, doi:10.1109/TIFS.2014.2359646): one label file per fold.
- FairFace (Kärkkäinen and Joo 2021, arXiv:1908.04913): two CSV files, ages in nine ranges.
- APPA-REAL (Agustsson et al. 2017, doi:10.1109/FG.2017.20): real ages, and apparent ones from votes. Each
  vote has the age and gender of the voter (`worker_age`, `worker_gender`), which say nothing about the face.
- MegaAge-Asian (Zhang et al. 2017, arXiv:1708.09687): parallel lists of names and ages, no gender.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from agegender.labels import Gender

from trainer.datasets.formats.table_files import read_lines, read_tab_separated, read_table
from trainer.datasets.formats.tables import GENDERS, IMAGE_SET, Columns, labelled
from trainer.datasets.labels import (
    DETECTED,
    DatasetFormat,
    LabelledImage,
    LabelRow,
    Reason,
    Removed,
    bad_labels,
)

FOLDS = 5
_FILE_PREFIX = {"aligned": "landmark_aligned_face", "faces": "coarse_tilt_aligned_face"}
_ADIENCE_COLUMNS = ("user_id", "original_image", "face_id", "age", "gender")
_ADIENCE_GENDERS = {"m": Gender.MALE, "f": Gender.FEMALE}
_YEARS = re.compile(r"\d{1,3}")
# 72 rows, all in one album that also has (25, 32): the digits of the upper end are swapped.
_MISTYPED = {(25, 23): (25, 32)}

# The training and validation files do not define folds; all rows are divided into five folds.
_FAIRFACE_FILES = ("fairface_label_train.csv", "fairface_label_val.csv")
_FAIRFACE_FOLDERS = "fairface-img-margin*"  # one per archive
_LABELS = Columns("file", "age", "gender")

_APPA_SPLITS = ("train", "valid", "test")
_APPA_IMAGES = {"faces": "_face.jpg", "images": ""}
_APPA_AGES = ("real", "apparent")

_MEGAAGE_SPLITS = ("train", "test")


def adience_label_file(folder: Path, fold: int) -> Path:
    return folder / f"fold_{fold}_data.txt"


def adience_interval(text: str) -> tuple[int, int] | None:
    """Return the years of an Adience age: an interval `(25, 32)`, a single age `35`, or None for `None`.

    >>> adience_interval("(38, 42)"), adience_interval("35"), adience_interval("None")
    ((38, 42), (35, 35), None)
    >>> adience_interval("(25, 23)")
    (25, 32)
    """
    years = [int(number) for number in _YEARS.findall(text)]
    if not 1 <= len(years) <= 2:
        return None
    low, high = _MISTYPED.get((years[0], years[-1]), (years[0], years[-1]))
    return min(low, high), max(low, high)


def read_adience(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the rows of all folds, fold by fold. `checked_rows` removes the repeated ones.

    The subject is the album (`user_id`): folds are exclusive by album, and one person may have several
    `face_id` in an album.
    """
    for fold in range(FOLDS):
        for row in read_tab_separated(adience_label_file(folder, fold), _ADIENCE_COLUMNS):
            yield _adience_row(row, image_set, fold)


def _adience_row(row: dict[str, str], image_set: str, fold: int) -> LabelRow:
    user, image, face = (row[name] for name in ("user_id", "original_image", "face_id"))
    file = f"{user}/{_FILE_PREFIX[image_set]}.{face}.{image}"
    # Age before gender, as the original project counts: 713 rows have neither.
    age = adience_interval(row["age"])
    if age is None:
        return Removed(file, Reason.NO_AGE, fold)
    gender = _ADIENCE_GENDERS.get(row["gender"])
    if gender is None:
        return Removed(file, Reason.NO_GENDER, fold)
    return LabelledImage(file, float(age[0]), float(age[1]), gender, subject=user, fold=fold)


def _adience_image_sets(folder: Path) -> list[str]:
    if not all(adience_label_file(folder, fold).is_file() for fold in range(FOLDS)):
        return []
    return [name for name in _FILE_PREFIX if (folder / name).is_dir()] or list(_FILE_PREFIX)[:1]


ADIENCE = DatasetFormat(
    name="adience",
    looks_for="Adience: fold_0_data.txt to fold_4_data.txt, and images in aligned/ or faces/",
    image_sets=_adience_image_sets,
    image_dir=lambda folder, image_set: folder / image_set,
    read=read_adience,
    min_det_score=DETECTED,
)


def read_fairface(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the rows of the training file, then those of the validation file."""
    for name in _FAIRFACE_FILES:
        if (folder / name).is_file():
            for row in read_table(folder / name, required=("file", "age", "gender")):
                yield labelled(row, _LABELS, GENDERS)


def _fairface_image_sets(folder: Path) -> list[str]:
    """Return `images` if the folder contains train/ or val/, and the folders that the archives unpack to."""
    if not any((folder / name).is_file() for name in _FAIRFACE_FILES):
        return []
    unpacked = sorted(path.name for path in folder.glob(_FAIRFACE_FOLDERS) if path.is_dir())
    here = any((folder / name).is_dir() for name in ("train", "val"))
    return [IMAGE_SET, *unpacked] if here or not unpacked else unpacked


FAIRFACE = DatasetFormat(
    name="fairface",
    looks_for="FairFace: fairface_label_train.csv or fairface_label_val.csv, and images in train/ and val/",
    image_sets=_fairface_image_sets,
    image_dir=lambda folder, image_set: folder if image_set == IMAGE_SET else folder / image_set,
    read=read_fairface,
)


def read_appa_real(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the images of all splits, with the real or the apparent age, as the image set states.

    The gender is that of `allcategories_….csv`, if these files exist.
    """
    images, _, age = image_set.partition("-")
    for split in _APPA_SPLITS:
        genders = _appa_genders(folder, split)
        for file, years in _appa_ages(folder, split, age.removesuffix("-age")):
            cells = {
                "file": f"{split}/{file}{_APPA_IMAGES[images]}",
                "age": years,
                "gender": genders.get(file, ""),
            }
            yield labelled(cells, _LABELS, GENDERS)


def _appa_ages(folder: Path, split: str, age: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the age of each image, from the averages, or else from the votes."""
    average = folder / f"gt_avg_{split}.csv"
    if average.is_file():
        column = {"real": "real_age", "apparent": "apparent_age_avg"}[age]
        for row in read_table(average, ("file_name", column)):
            yield row["file_name"], row[column]
    elif (votes := folder / f"gt_{split}.csv").is_file():
        column = f"{age}_age"
        ages: dict[str, list[float]] = {}
        for row in read_table(votes, ("file_name", column)):
            try:
                ages.setdefault(row["file_name"], []).append(float(row[column]))
            except ValueError:
                raise bad_labels(votes, f"{column} is {row[column][:40]!r}; expected a number") from None
        for file, voted in ages.items():
            yield file, f"{sum(voted) / len(voted):.2f}"


def _appa_genders(folder: Path, split: str) -> dict[str, str]:
    path = folder / f"allcategories_{split}.csv"
    if not path.is_file():
        return {}
    return {row["file"]: row["gender"] for row in read_table(path, ("file", "gender"))}


def _appa_image_sets(folder: Path) -> list[str]:
    names = [f"{kind}_{split}.csv" for kind in ("gt_avg", "gt") for split in _APPA_SPLITS]
    if not any((folder / name).is_file() for name in names):
        return []
    return [f"{images}-{age}-age" for age in _APPA_AGES for images in _APPA_IMAGES]


APPA_REAL = DatasetFormat(
    name="appa-real",
    looks_for="APPA-REAL: gt_avg_train.csv, gt_avg_valid.csv or gt_avg_test.csv, and images in train/ …",
    image_sets=_appa_image_sets,
    image_dir=lambda folder, image_set: folder,
    read=read_appa_real,
)


def read_megaage(folder: Path, image_set: str) -> Iterator[LabelRow]:
    """Yield the images of the training list, then those of the test list. Raises ``bad-labels`` 422."""
    for split in _MEGAAGE_SPLITS:
        names, ages = _megaage_lists(folder, split)
        if not names.is_file():
            continue
        files, years = list(read_lines(names)), list(read_lines(ages))
        if len(files) != len(years):
            raise bad_labels(
                ages, f"it has {len(years):,} ages for {len(files):,} names in {names.name}; expected as many"
            )
        for file, age in zip(files, years, strict=True):
            yield labelled({"file": f"{split}/{file}", "age": age, "gender": ""}, _LABELS, GENDERS)


def _megaage_lists(folder: Path, split: str) -> tuple[Path, Path]:
    return folder / "list" / f"{split}_name.txt", folder / "list" / f"{split}_age.txt"


def _megaage_image_sets(folder: Path) -> list[str]:
    lists = [_megaage_lists(folder, split) for split in _MEGAAGE_SPLITS]
    return [IMAGE_SET] if any(names.is_file() and ages.is_file() for names, ages in lists) else []


MEGAAGE_ASIAN = DatasetFormat(
    name="megaage-asian",
    looks_for="MegaAge-Asian: list/train_name.txt and list/train_age.txt, and images in train/ and test/",
    image_sets=_megaage_image_sets,
    image_dir=lambda folder, image_set: folder,
    read=read_megaage,
)
FORMATS = (ADIENCE, FAIRFACE, APPA_REAL, MEGAAGE_ASIAN)
