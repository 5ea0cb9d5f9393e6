"""A folder with a table: `labels.csv`, or `annotations` or `metadata` as CSV, TSV, JSON Lines or Parquet.

The table has the columns file, age and gender, optionally subject and fold, or other usual names for them.
`metadata` is the table of Hugging Face's `imagefolder`; it may lie in the folders of the splits, too.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path, PurePosixPath

from agegender.errors import Problem
from agegender.labels import MAX_AGE, Gender

from trainer.datasets.formats.embedded import (
    BOX,
    PARQUET,
    PIXELS,
    Check,
    box_of,
    has_pixels,
    image_column,
    start_unpacking,
    unpack_boxes,
    unpack_parquet,
    unpack_pixels,
    unpacked_name,
)
from trainer.datasets.formats.table_files import (
    LABELS,
    SURPLUS,
    columns,
    missing_columns,
    nearest_column,
    require_columns,
    rows,
    tables_in,
)
from trainer.datasets.labels import (
    NO_FOLD,
    UNKNOWN_AGE,
    DatasetFormat,
    LabelledImage,
    LabelRow,
    Reason,
    Removed,
    is_safe_name,
)

IMAGE_SET = "images"

# Names of the columns, the preferred first.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "file": ("file", PIXELS, "filename", "file_name", "file name", "filepath", "file_path", "path",
             "image_path", "image_name", "image_file", "image", "img_name", "img_path", "img"),
    "age": ("age", "ages", "age_years", "age (years)", "years", "age_group"),
    "gender": ("gender", "sex", "genders"),
    "subject": ("subject", "subject_id", "subjectid", "subjects", "person_id", "person", "identity",
                "identity_id", "user_id"),
    "fold": ("fold", "folds", "fold_id", "kfold"),
}  # fmt: skip
# Names that may mean a column but usually mean something else.
_SIMILAR = {"file": ("name", "picture", "photo", "image_id", "img_id", "id")}
LIKELY = frozenset(name for names in ALIASES.values() for name in names)

# As spreadsheets, pandas and published data sets write it.
UNKNOWN = frozenset({"", "-", "-1", "u", "unknown", "none", "nan", "null", "na", "n/a", "#n/a", "<na>"})
_NO_FOLD = UNKNOWN - {"-1"}
GENDERS: Mapping[str, Gender] = {
    **dict.fromkeys(("m", "male", "males", "man", "men"), Gender.MALE),
    **dict.fromkeys(("f", "female", "females", "woman", "women"), Gender.FEMALE),
}
_UTKFACE_GENDERS = {"0": Gender.MALE, "1": Gender.FEMALE}
_YEARS = r"(\d{1,3}(?:[.,]\d+)?)"
_AGE = re.compile(rf"{_YEARS}(?:\s*[-\N{{EN DASH}}]\s*{_YEARS})?")
_BARE_YEARS = re.compile(_YEARS)
_PAIR = re.compile(rf"[(\[]{_YEARS}, ?{_YEARS}[)\]]")
_AT_LEAST = re.compile(rf"(?:more than )?{_YEARS}\+?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(rf"(\d{{1,2}})-({'|'.join(_MONTHS)})|({'|'.join(_MONTHS)})-(\d{{1,2}})")
_ROOT = re.compile(r"(?:[A-Za-z]:)?[\\/]+")
_NUMBER = re.compile(r"(-?\d+)(?:[.,]0*)?")  # pandas writes a column of integers with gaps as 0.0
_FOLDS = range(100)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a table by what they hold; None if the table has no such column."""

    file: str
    age: str | None = None
    gender: str | None = None
    subject: str | None = None
    fold: str | None = None


ROLES = tuple(field.name for field in fields(Columns))


def find_columns(path: Path, found: list[str], selected: Mapping[str, str | None] | None = None) -> Columns:
    """Return the columns to read: those selected, for the others the first name that is in use.

    selected : role → name of its column, None for no column. Raises ``bad-labels`` if a column is missing.
    """
    selected = {role: name and name.strip().lower() for role, name in (selected or {}).items()}
    named = {role: next((name for name in ALIASES[role] if name in found), None) for role in ROLES} | selected
    if path.suffix.lower() == PARQUET and "file" not in selected:
        named["file"] = image_column(path) or named["file"]
    given = [name for name in selected.values() if name]
    require_columns(path, found, given, [name for name in named.values() if name])
    if not named["file"]:
        raise missing_columns(path, found, ("file",), ("file",), _SIMILAR)
    return Columns(**{role: name or None for role, name in named.items()})  # type: ignore[arg-type]


def similar_columns(found: list[str]) -> dict[str, str]:
    """Return the columns that probably hold something under a name that is not read: role → column."""
    similar = {
        role: nearest_column(role, found, (*ALIASES[role], *_SIMILAR.get(role, ())))
        for role in ("file", "age", "gender")
        if role not in found
    }
    return {role: name for role, name in similar.items() if name}


def label_file(folder: Path) -> Path:
    return folder / LABELS


def read(folder: Path, image_set: str, genders: Mapping[str, Gender] | None = None) -> Iterator[LabelRow]:
    """Yield the rows in order. An empty age or gender is unknown; a face needs at least one of them.

    genders : meaning of further words or numbers in the column `gender`.
    """
    for table in tables_in(folder):
        found = find_columns(folder / table, columns(folder / table, LIKELY))
        for _, row in labelled_rows(folder, table, found, genders or {}):
            yield held(table, row)


def labelled_rows(
    folder: Path, table: str, found: Columns, genders: Mapping[str, Gender]
) -> Iterator[tuple[Mapping[str, str], LabelRow]]:
    """Yield the cells of each row of a table, and its labels; files are relative to the data set's folder."""
    path = folder / table
    names = columns(path, _likely(found))
    words = gender_words(genders, names)
    read_row = _row_reader(path, found, names)
    for number, cells in enumerate(rows(path, _likely(found))):
        yield cells, beside(table, read_row(number, cells, labelled(cells, found, words)))


def held(table: str, row: LabelRow) -> LabelRow:
    """Remove a row of a Parquet file that holds only the path where its writer had the image."""
    if isinstance(row, Removed) or not table.endswith(PARQUET) or not (root := _ROOT.match(row.file)):
        return row
    return Removed(row.file.removeprefix(root[0]), Reason.IMAGE_NOT_HELD, row.fold)


def _row_reader(
    path: Path, found: Columns, names: list[str]
) -> Callable[[int, Mapping[str, str], LabelRow], LabelRow]:
    """Return the function that gives a row the file that its image is unpacked to."""

    def with_pixels(number: int, cells: Mapping[str, str], row: LabelRow) -> LabelRow:
        file = unpacked_name(path, number, ".png")
        if isinstance(row, LabelledImage) and not has_pixels(cells[PIXELS]):
            return Removed(file, Reason.UNREADABLE_IMAGE, row.fold)
        return replace(row, file=file)

    def with_box(number: int, cells: Mapping[str, str], row: LabelRow) -> LabelRow:
        reason = row.reason if isinstance(row, Removed) else None
        if reason is None and box_of(cells) is None:
            reason = Reason.NO_FACE
        if reason is None and _photograph(path, row.file) is None:
            reason = Reason.IMAGE_MISSING
        if reason is not None:
            return Removed(f"{row.file}#{number}", reason, row.fold)
        return replace(row, file=unpacked_name(path, number, ".jpg"))

    def with_image(number: int, cells: Mapping[str, str], row: LabelRow) -> LabelRow:
        return row if row.file else Removed(f"{path.name}#{number}", Reason.IMAGE_MISSING, row.fold)

    if found.file == PIXELS:
        return with_pixels
    if set(BOX).issubset(names):
        return with_box
    return with_image if path.suffix.lower() == PARQUET else lambda number, cells, row: row


def _photograph(table: Path, name: str) -> Path | None:
    """Return the image that a table with boxes names, by its path or by its name in a folder for images."""
    base = name.replace("\\", "/").rpartition("/")[2]
    for place in (name, base, f"images/{base}", f"data/{base}"):
        path = table.parent / place
        if is_safe_name(place) and path.is_file() and path.resolve().is_relative_to(table.parent.resolve()):
            return path
    return None


def unpack(folder: Path, names: Iterable[str], check: Check) -> None:
    """Write the images that tables hold, or that are cut out for their boxes, where files are missing.

    check : is called before each image. Raises ``bad-labels`` and ``parquet-not-installed`` as `rows` does.
    """
    for table in names:
        path = folder / table
        found = columns(path, LIKELY)
        is_parquet = path.suffix.lower() == PARQUET
        if not (is_parquet and image_column(path)) and PIXELS not in found and not set(BOX).issubset(found):
            continue
        start_unpacking(path)
        if is_parquet:
            unpack_parquet(path, check)
        elif PIXELS in found:
            unpack_pixels(path, rows(path, LIKELY), check)
        else:
            unpack_boxes(path, _boxes(path, find_columns(path, found)), check)


def _boxes(path: Path, found: Columns) -> Iterator[tuple[int, Path, Mapping[str, str]]]:
    for number, cells in enumerate(rows(path, LIKELY)):
        file = cells.get(found.file, "")
        if isinstance(labelled(cells, found, GENDERS), LabelledImage) and (image := _photograph(path, file)):
            yield number, image, cells


def _likely(found: Columns) -> frozenset[str]:
    return LIKELY.union(name for role in ROLES if (name := getattr(found, role)))


def beside(table: str, row: LabelRow) -> LabelRow:
    """Return a row whose file is named relative to its table, relative to the data set's folder."""
    parent = PurePosixPath(table).parent
    is_inside = bool(row.file) and not row.file.startswith(("/", "\\"))
    return replace(row, file=f"{parent}/{row.file}") if parent.name and is_inside else row


def gender_words(more: Mapping[str, Gender], names: Collection[str] = ()) -> dict[str, Gender]:
    """Return the meaning of each gender word: the usual ones and those given.

    names : columns of the table. Kaggle's `age_gender.csv` has UTKFace's numbers.
    """
    known = _UTKFACE_GENDERS if {PIXELS, "ethnicity"}.issubset(names) else {}
    return {**GENDERS, **known, **{plain(text): gender for text, gender in more.items()}}


def plain(text: str) -> str:
    """Return the text in lower case, and a whole number such as `1.0` as `1`."""
    return match[1] if (match := _NUMBER.fullmatch(text)) else text.strip().lower()


def is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def labelled(row: Mapping[str, str], found: Columns, words: Mapping[str, Gender]) -> LabelRow:
    """Return the labels in a row of a table, or why it cannot be used.

    words : gender word, as `plain` returns it → gender.
    """
    file = row.get(found.file, "")
    age = plain(row.get(found.age or "", "")) if found.age else ""
    gender_text = plain(row.get(found.gender or "", "")) if found.gender else ""
    subject = row.get(found.subject or "", "") if found.subject else ""
    fold_text = plain(row.get(found.fold or "", "")) if found.fold else ""
    if row.get(SURPLUS):
        return Removed(file, Reason.BAD_ROW)  # an unquoted delimiter in a cell shifts the columns
    if fold_text not in _NO_FOLD and not (fold_text.isascii() and fold_text.isdigit()):
        return Removed(file, Reason.BAD_FOLD)
    fold = NO_FOLD if fold_text in _NO_FOLD else int(fold_text[:9])
    if fold != NO_FOLD and fold not in _FOLDS:
        return Removed(file, Reason.BAD_FOLD)
    low = high = UNKNOWN_AGE
    if age not in UNKNOWN:
        if (interval := age_interval(age)) is None:
            return Removed(file, Reason.NO_AGE, fold)
        low, high = interval
        if not low <= high <= MAX_AGE:
            return Removed(file, Reason.AGE_OUT_OF_RANGE, fold)
    gender = words.get(gender_text)
    if gender is None and gender_text not in UNKNOWN:
        reason = Reason.GENDER_NOT_MAPPED if is_number(gender_text) else Reason.NO_GENDER
        return Removed(file, reason, fold)
    if gender is None and age in UNKNOWN:
        return Removed(file, Reason.NO_AGE, fold)
    if not subject.isprintable():
        return Removed(file, Reason.BAD_ROW, fold)
    return LabelledImage(file, low, high, Gender.UNKNOWN if gender is None else gender, subject, fold)


def age_interval(text: str) -> tuple[float, float] | None:
    """Return the years of an age in one of the usual notations, or None if it is not an age.

    Spreadsheets make dates of ranges: `3-Sep` and `9-Mar` of 3-9, `19-Oct` and `Oct-19` of 10-19.

    >>> age_interval("34,5"), age_interval("25 - 32"), age_interval("(25, 32)"), age_interval("more than 70")
    ((34.5, 34.5), (25.0, 32.0), (25.0, 32.0), (70.0, 100.0))
    >>> age_interval("03-Sep"), age_interval("Oct-19"), age_interval("young")
    ((3.0, 9.0), (10.0, 19.0), None)
    """
    text = text.strip().lower()
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
    """Return whether a name is a range of ages, such as `25-32` or `60+`. A month makes it a date.

    >>> is_age_range("(25, 32)"), is_age_range("more than 70"), is_age_range("25"), is_age_range("12-jan")
    (True, True, False, False)
    """
    has_month = any(map(str.isalpha, text.removeprefix("more than")))
    return not has_month and not _BARE_YEARS.fullmatch(text) and age_interval(text) is not None


def _is_labels_csv(folder: Path) -> list[str]:
    return [IMAGE_SET] if label_file(folder).is_file() else []


def _is_table(folder: Path) -> list[str]:
    """Return the image set if the folder's table has a file and a label under usual names."""
    try:
        for table in tables_in(folder):
            found = find_columns(folder / table, columns(folder / table, LIKELY))
            if found.age or found.gender:
                return [IMAGE_SET]
    except Problem as problem:
        if problem.slug == "parquet-not-installed":  # reading it states what to install
            return [IMAGE_SET]
    return []


def _unpack(folder: Path, image_set: str, check: Check) -> None:
    unpack(folder, tables_in(folder), check)


def _with_genders(label_format: DatasetFormat, genders: Mapping[str, Gender]) -> DatasetFormat:
    return replace(label_format, read=partial(read, genders=genders))


_IN_FOLDER = DatasetFormat(
    name="table",
    looks_for="another table with such columns: annotations or metadata as .csv, .tsv, .jsonl or .parquet, "
    "Parquet shards with images, a column of pixels, or boxes of faces",
    image_sets=_is_table,
    image_dir=lambda folder, image_set: folder,
    read=read,
    unpack=_unpack,
)
TABLE = replace(_IN_FOLDER, with_genders=partial(_with_genders, _IN_FOLDER))
_LABELS_CSV = replace(
    _IN_FOLDER,
    name=LABELS,
    looks_for="a table: labels.csv with the columns file, age, gender and optionally subject and fold",
    image_sets=_is_labels_csv,
)
FORMAT = replace(_LABELS_CSV, with_genders=partial(_with_genders, _LABELS_CSV))
