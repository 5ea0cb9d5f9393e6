"""Find the tables of a data set, and read them (CSV, TSV, JSON, Parquet) row by row, within limits."""

import csv
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from agegender.errors import Problem
from agegender.files import read_json

from trainer.datasets.embedding_set import file_sha256
from trainer.datasets.formats.embedded import (
    BOX,
    MAX_ROWS,
    PARQUET,
    PIXELS,
    cell_text,
    parquet_columns,
    parquet_rows,
)
from trainer.datasets.labels import bad_labels, require_inside

LABELS = "labels.csv"
_SUFFIXES = (".csv", ".tsv", ".jsonl", PARQUET)
_METADATA = [f"metadata{suffix}" for suffix in _SUFFIXES]
_TABLES = [*(f"{stem}{suffix}" for stem in ("labels", "annotations") for suffix in _SUFFIXES), *_METADATA]
SOURCE = "labels.source.json"  # what an import wrote labels.csv from
METADATA = "metadata.csv"
EXPORTED = "metadata.csv.exported"  # its presence means that metadata.csv is an export, and not the labels
SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")
_IN_SPLITS = [f"{parent}{split}" for parent in ("", "data/") for split in SPLITS]

MAX_BYTES = 1024**3
MAX_LINE = 64 * 1024
_SHOWN = 40  # columns, and characters of each, quoted in an error
JSON = ".json"
MAX_JSON = 32 * 1024**2  # which is read whole
JSON_LINES = frozenset({".jsonl", ".ndjson"})
_SAMPLE = 100  # rows of JSON Lines whose names are the columns
SURPLUS = ""  # key of the joined cells beyond the last column
_DELIMITERS = ",;\t|"
_UNSAID = re.compile(r"[\W_]+")
_SEPARATOR_LINE = "sep="  # Excel may write this line before the column names


def tables_in(folder: Path) -> list[str]:
    """Return the tables of a data set, relative to its folder: the first name in use, also of each split.

    Without such a table, they are Parquet shards, or tables with pixels or boxes of faces.
    """
    ignored = {METADATA} if (folder / EXPORTED).is_file() else set()
    for name in _TABLES:
        if name not in ignored and (folder / name).is_file():
            return [name]
    if not ignored and (found := metadata_in_splits(folder)):
        return found
    shards = parquet_shards(folder)
    return shards or [name for name in _names(folder, ".csv") if _embeds(folder / name)][:1]


def import_record(folder: Path) -> dict[str, Any]:
    """Return what an import recorded of labels.csv; nothing if a person wrote or changed labels.csv since."""
    try:
        record = read_json(folder / SOURCE)
        return dict(record) if record["sha256"] == file_sha256(folder / LABELS) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def metadata_in_splits(folder: Path) -> list[str]:
    """Return the tables of an `imagefolder` of Hugging Face that has one per split."""
    for name in _METADATA:
        found = [f"{split}/{name}" for split in _IN_SPLITS if (folder / split / name).is_file()]
        if found:
            return found
    return []


def parquet_shards(folder: Path) -> list[str]:
    """Return the Parquet files in a folder and in those of its splits."""
    places = [place for place in ("", "data", "default", *_IN_SPLITS) if (folder / place).is_dir()]
    return [f"{place}/{name}".lstrip("/") for place in places for name in _names(folder / place, PARQUET)]


def hugging_face_tables(folder: Path) -> list[str]:
    """Return the tables of a data set of Hugging Face: `metadata` of an image folder, or Parquet shards."""
    whole = [name for name in _METADATA if (folder / name).is_file()][:1]
    return whole or metadata_in_splits(folder) or parquet_shards(folder)


def _names(folder: Path, suffix: str) -> list[str]:
    """Return the files in a folder with this ending, in their order."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(suffix)]
    return sorted(name for name in names if name[0] != "." and (folder / name).is_file())


def _embeds(path: Path) -> bool:
    """Return whether a CSV table has pixels or boxes of faces."""
    try:
        found = set(columns(path, (PIXELS, *BOX)))
    except Problem:
        return False
    return PIXELS in found or found.issuperset(BOX)


def read_table(path: Path, required: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield each row of a CSV table as `rows` does.

    Raises ``bad-labels`` also if the table lacks a required column or has one twice.
    """
    require_columns(path, columns(path, required), required, required)
    yield from rows(path, required)


def read_tab_separated(path: Path, required: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a table with tabs between cells and without quoting, as `read_table` does."""
    with _table(path, required, delimiter="\t", quoting=csv.QUOTE_NONE) as (names, cells):
        require_columns(path, names, required, required)
        yield from _named(names, cells)


def columns(path: Path, likely: Collection[str] = ()) -> list[str]:
    """Return the names of a table's columns in lower case, stripped, in their order.

    Raises ``bad-labels`` if the file is not a table or exceeds a limit.

    likely : names that the table may have; they help to find the delimiter.
    """
    if path.suffix.lower() == PARQUET:
        return parquet_columns(path)
    if path.suffix.lower() in (JSON, *JSON_LINES):
        first = islice(_json_rows(path), _SAMPLE)
        return list(dict.fromkeys(name for row in first for name in row if name != SURPLUS))
    with _table(path, likely) as (names, _):
        return names


def rows(path: Path, likely: Collection[str] = ()) -> Iterator[dict[str, str]]:
    """Yield each row as column name → stripped cell. Missing cells are empty; surplus ones are at `SURPLUS`.

    The delimiter (comma, semicolon, tab or bar) is the one with which the first line contains most of the
    likely columns. Takes and raises what `columns` does.
    """
    if path.suffix.lower() in (PARQUET, JSON, *JSON_LINES):
        read = parquet_rows if path.suffix.lower() == PARQUET else _json_rows
        yield from read(path)
        return
    with _table(path, likely) as (names, cells):
        yield from _named(names, cells)


def heading(name: str) -> str:
    """Return a column's name as it is compared: only its letters and digits, in lower case."""
    return _UNSAID.sub("", name.lower())


def same_column(name: str, found: Sequence[str]) -> str:
    """Return the column that a name means, or else the name, which no column has."""
    name = name.strip().lower()
    return name if name in found else next((one for one in found if heading(one) == heading(name)), name)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the stripped lines of a text file; empty ones are omitted. Raises ``bad-labels`` 422."""
    with _opened(path) as lines:
        yield from filter(None, map(str.strip, lines))


def _named(names: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[dict[str, str]]:
    for line in lines:
        if any(cell.strip() for cell in line):
            cells = [cell.strip() for cell in line] + [""] * (len(names) - len(line))
            yield {**dict(zip(names, cells, strict=False)), SURPLUS: "".join(cells[len(names) :])}


@contextmanager
def _table(
    path: Path, likely: Collection[str], **dialect: Any
) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """Open a CSV table: the names of its columns, and its lines of cells."""
    with _opened(path) as lines:
        try:
            first, number = next(lines, ""), 1
            if "delimiter" not in dialect:
                if first.lower().startswith(_SEPARATOR_LINE) and len(first.strip()) <= 5:
                    dialect["delimiter"] = first[len(_SEPARATOR_LINE) :].rstrip("\r\n")[:1] or ","
                    first, number = next(lines, ""), 2
                else:
                    dialect["delimiter"] = _delimiter(first, set(likely))
            cells = _cells(path, chain([first], lines), dialect, number)
            yield [name.strip().lower() for name in next(cells, [])], cells
        except csv.Error as error:
            raise bad_labels(path, f"it is not a CSV table: {error}") from error


def _cells(path: Path, lines: Iterable[str], dialect: Mapping[str, Any], first: int) -> Iterator[list[str]]:
    """Yield the cells of each row. An open quote is an error: it would take the following rows with it.

    first : number of the first line.
    """
    taken: list[str] = []
    reader = csv.reader((taken.append(line) or line for line in lines), **dialect)  # type: ignore[func-returns-value]
    try:
        for cells in reader:
            if len(taken) > 1:
                list(csv.reader(taken, strict=True, **dialect))  # raises an error if the quote is not closed
            yield cells
            first += len(taken)
            taken.clear()
    except csv.Error as error:
        what = (
            f"the row that begins in line {first} cannot be read ({error}). Cells with quotes, line breaks "
            'or the delimiter must be quoted whole, as in "one, ""two"""'
        )
        raise bad_labels(path, what) from error


def _json_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the objects of a JSON Lines file, or of the array of a JSON file, their values as text."""
    for place, row in _json_array(path) if path.suffix.lower() == JSON else _json_lines(path):
        if not isinstance(row, dict):
            raise bad_labels(path, f'{place} is not a JSON object, such as {{"file_name": …}}')
        yield {
            **{str(name).strip().lower(): cell_text(value) for name, value in row.items()},
            SURPLUS: "",
        }


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number}", _json(path, f"line {number}", line)


def _json_array(path: Path) -> Iterator[tuple[str, object]]:
    require_inside(path)
    if path.stat().st_size > MAX_JSON:
        raise bad_labels(path, f"the file is larger than {MAX_JSON} bytes; write it as JSON Lines (.jsonl)")
    try:
        rows = _json(path, "the file", path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, OSError) as error:
        raise bad_labels(path, f"it cannot be read as UTF-8 text: {error}") from error
    if not isinstance(rows, list):
        raise bad_labels(
            path, f'expected an array of objects, [{{"file_name": …}}], got {type(rows).__name__}'
        )
    yield from ((f"entry {number}", row) for number, row in enumerate(rows, start=1))


def _json(path: Path, place: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad_labels(path, f"{place} is not JSON: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    """Open a text file as bounded lines; its errors become ``bad-labels``."""
    require_inside(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise bad_labels(path, f"the file is larger than {MAX_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield _bounded_lines(file, path)
    except UnicodeDecodeError as error:
        raise bad_labels(path, f"it is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise bad_labels(path, error.strerror or str(error)) from error


def _delimiter(first_line: str, expected: set[str]) -> str:
    """Return the delimiter that yields most of the expected columns; among equals, most columns."""

    def found(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader([first_line], delimiter=delimiter), [])
        return len(headings & {heading(cell) for cell in cells}), len(cells)

    headings = {heading(name) for name in expected}
    return max(_DELIMITERS, key=found)


def require_columns(
    path: Path, found: Sequence[str], required: Collection[str], once: Collection[str]
) -> None:
    """Raise ``bad-labels`` if a table lacks a required column, or names one of `once` twice."""
    for name in once:
        if found.count(name) > 1:
            raise bad_labels(path, f"the first line must name each column once; it names {name!r} twice")
    missing = [name for name in required if name not in found]
    if missing:
        raise missing_columns(path, found, required, missing)


def missing_columns(
    path: Path,
    found: Sequence[str],
    required: Collection[str],
    missing: Sequence[str],
    similar: Mapping[str, Collection[str]] | None = None,
) -> Problem:
    """Return the problem of a table that lacks columns; it names those found and the nearest to each.

    similar : names that people use, per missing column.
    """
    shown = ", ".join(repr(name[:_SHOWN]) for name in found[:_SHOWN]) or "no columns"
    nearest = {
        name: other
        for name in missing
        if (other := nearest_column(name, found, (similar or {}).get(name, ())))
    }
    meant = ", ".join(f"{other[:_SHOWN]!r}: did you mean {name!r}?" for name, other in nearest.items())
    return bad_labels(
        path,
        f"the first line must name the columns {', '.join(required)}; {', '.join(missing)} is missing. "
        f"It names {shown}. " + (meant or "Add what is missing."),
    )


def nearest_column(name: str, found: Sequence[str], similar: Collection[str]) -> str | None:
    """Return the column that was probably meant by another name; those that are similar first."""
    headings = {heading(other): other for other in reversed(found)}
    known = next((headings[heading(other)] for other in similar if heading(other) in headings), None)
    return known or next(iter(get_close_matches(name, [other for other in found if other], n=1)), None)


def _bounded_lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if number > MAX_ROWS:
            raise bad_labels(path, f"it has more than {MAX_ROWS} lines")
        if len(line) >= MAX_LINE:
            raise bad_labels(path, f"line {number} has more than {MAX_LINE} characters")
        if "\0" in line:
            raise bad_labels(path, f"line {number} has a NUL character; save the file as UTF-8 text")
        yield line
