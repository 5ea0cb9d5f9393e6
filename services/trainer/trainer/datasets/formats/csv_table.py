"""Read CSV tables of any origin line by line, with limits on cell, row and file size."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from trainer.datasets.labels import bad_labels

MAX_BYTES = 1024**3
MAX_LINE = 64 * 1024
MAX_ROWS = 5_000_000
_SHOWN = 40  # columns, and characters of each, quoted in an error
SURPLUS = ""  # key of the joined cells beyond the last column
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = "sep="  # Excel may write this line before the column names


def read_table(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    synonyms: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[dict[str, str]]:
    """Yield each row as column name → stripped cell. Missing cells are empty; surplus ones are at `SURPLUS`.

    The delimiter (comma, semicolon, tab or bar) is the one with which the first line contains most of the
    expected columns. Column names are compared in lower case.

    required, optional : columns that the caller reads. synonyms : other names in use, per column.

    Raises ``bad-labels`` if the file is not a UTF-8 table, lacks a required column, names an optional column
    by a synonym, has a column twice, or exceeds a limit.
    """
    expected = (tuple(required), tuple(optional), synonyms or {})
    yield from _read(path, *expected, strict=True)


def read_tab_separated(path: Path, required: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Yield the rows of a table with tabs between cells and without quoting, as `read_table` does."""
    yield from _read(path, required, (), {}, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read(
    path: Path,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    synonyms: Mapping[str, Sequence[str]],
    **dialect: Any,
) -> Iterator[dict[str, str]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise bad_labels(path, f"the file is larger than {MAX_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _bounded_lines(file, path)
            first = next(lines, "")
            if "delimiter" not in dialect:
                if first.lower().startswith(_SEPARATOR_LINE) and len(first.strip()) <= 5:
                    dialect["delimiter"] = first[len(_SEPARATOR_LINE) :].rstrip("\r\n")[:1] or ","
                    first = next(lines, "")
                else:
                    dialect["delimiter"] = _delimiter(first, {*required, *optional})
            rows = csv.reader(chain([first], lines), **dialect)
            columns = [name.strip().lower() for name in next(rows, [])]
            _check_columns(path, columns, required, optional, synonyms)
            for row in rows:
                if any(cell.strip() for cell in row):
                    cells = [cell.strip() for cell in row] + [""] * (len(columns) - len(row))
                    yield {
                        **dict(zip(columns, cells, strict=False)),
                        SURPLUS: "".join(cells[len(columns) :]),
                    }
    except UnicodeDecodeError as error:
        raise bad_labels(path, f"it is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise bad_labels(path, f"it is not a CSV table: {error}") from error
    except OSError as error:
        raise bad_labels(path, error.strerror or str(error)) from error


def _delimiter(first_line: str, expected: set[str]) -> str:
    """Return the delimiter that yields most of the expected columns; among equals, most columns."""

    def found(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader([first_line], delimiter=delimiter), [])
        return len(expected & {cell.strip().lower() for cell in cells}), len(cells)

    return max(_DELIMITERS, key=found)


def _check_columns(
    path: Path,
    columns: Sequence[str],
    required: tuple[str, ...],
    optional: tuple[str, ...],
    synonyms: Mapping[str, Sequence[str]],
) -> None:
    for name in required + optional:
        if columns.count(name) > 1:
            raise bad_labels(path, f"the first line must name each column once; it names {name!r} twice")
    nearest = {
        name: other
        for name in required + optional
        if name not in columns and (other := _nearest(name, columns, synonyms, name in required))
    }
    missing = [name for name in required if name not in columns]
    missing += [name for name in nearest if name not in missing]
    if missing:
        found = ", ".join(repr(name[:_SHOWN]) for name in columns[:_SHOWN]) or "no columns"
        rename = ", ".join(f"{other[:_SHOWN]!r} to {name!r}" for name, other in nearest.items())
        raise bad_labels(
            path,
            f"the first line must name the columns {', '.join(required)}; {', '.join(missing)} is missing. "
            f"It names {found}. " + (f"Rename {rename}." if rename else "Add what is missing."),
        )


def _nearest(
    name: str, columns: Sequence[str], synonyms: Mapping[str, Sequence[str]], required: bool
) -> str | None:
    """Return the column that was probably meant by a missing one; for an optional one only a synonym."""
    known = next((other for other in synonyms.get(name, ()) if other in columns), None)
    return known or (next(iter(get_close_matches(name, columns, n=1)), None) if required else None)


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
