"""CSV files from anywhere: read line by line, with bounds on a cell, a row and the file."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from trainer.labels.labelled import bad_labels

MAX_BYTES = 1024**3
MAX_LINE = 64 * 1024
MAX_ROWS = 5_000_000


def read_table(path: Path, required: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Rows as column name → cell, both stripped; missing cells are empty, surplus ones are dropped.

    Column names are compared in lower case. Raises the problem ``bad-labels`` where the file is not a UTF-8
    CSV table with the required columns, or passes a bound.
    """
    yield from _read(path, required, strict=True)


def read_tab_separated(path: Path, required: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The same of a table with tabs between cells and no quotes."""
    yield from _read(path, required, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read(path: Path, required: tuple[str, ...], **dialect: Any) -> Iterator[dict[str, str]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise bad_labels(path, f"the file has more than {MAX_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(_bounded_lines(file, path), **dialect)
            columns = [name.strip().lower() for name in next(rows, [])]
            if missing := [name for name in required if name not in columns]:
                raise bad_labels(
                    path,
                    f"the first line must name the columns {', '.join(required)}; "
                    f"{', '.join(missing)} is missing",
                )
            for row in rows:
                if any(cell.strip() for cell in row):
                    cells = [cell.strip() for cell in row] + [""] * (len(columns) - len(row))
                    yield dict(zip(columns, cells, strict=False))
    except UnicodeDecodeError as error:
        raise bad_labels(path, f"it is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise bad_labels(path, f"it is not a CSV table: {error}") from error
    except OSError as error:
        raise bad_labels(path, error.strerror or str(error)) from error


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
