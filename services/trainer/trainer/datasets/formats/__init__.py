"""Label formats: a module per format, and the list in which they are tried."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agegender.errors import Problem

from trainer.datasets.formats import imdb_wiki, names, published, table_files, tables
from trainer.datasets.labels import DatasetFormat, is_image_name

# The first format that recognises a folder reads it. labels.csv, which a person or `agegender import` wrote,
# precedes all others, and tables precede file names.
FORMATS: tuple[DatasetFormat, ...] = (
    tables.FORMAT,
    *published.FORMATS,
    imdb_wiki.FORMAT,
    tables.TABLE,
    *names.FORMATS,
)

TABLE_FORMATS = frozenset({tables.FORMAT.name, tables.TABLE.name})
_TABLES = frozenset({".csv", ".tsv", ".txt", ".parquet", table_files.JSON, *table_files.JSON_LINES})
_WORKBOOKS = frozenset({".xls", ".xlsx", ".xlsm", ".ods", ".numbers"})
_SHOWN = 20
_TO_IMPORT = "agegender import NAME reads a table of another name, or with other columns."


def format_of(folder: Path) -> DatasetFormat | None:
    """Return the format of the data set in a folder, or None if no format recognises it."""
    found = next((candidate for candidate in FORMATS if candidate.image_sets(folder)), None)
    if found is not tables.FORMAT or not (folder / table_files.SOURCE).is_file():
        return found
    # labels.csv that was imported from another format keeps that format's limits.
    name = table_files.import_record(folder).get("format")
    source = next((candidate for candidate in FORMATS if candidate.name == name), found)
    if (source.min_det_score, source.one_face_only) == (found.min_det_score, found.one_face_only):
        return found
    return replace(found, min_det_score=source.min_det_score, one_face_only=source.one_face_only)


def require_format(folder: Path) -> DatasetFormat:
    """Return the format of the data set in a folder. Raises `unknown_folder` if no format recognises it."""
    if (found := format_of(folder)) is not None:
        return found
    raise unknown_folder(folder)


def unknown_folder(folder: Path) -> Problem:
    """Return the problem ``unknown-dataset`` 422: what is there, and what was looked for."""
    looked_for = [candidate.looks_for for candidate in FORMATS]
    shards = [folder / name for name in table_files.parquet_shards(folder) if "/" in name][:_SHOWN]
    entries = [*sorted(folder.iterdir()), *shards]
    folders = [path for path in entries if path.is_dir()][:_SHOWN]
    nested = next((path.name for path in folders if format_of(path)), None)
    found = list(_described(entries))
    return Problem(
        "unknown-dataset",
        422,
        f"Nothing in the folder {folder.name!r} is a data set that can be read. "
        + (f"Found: {'; '.join(found)}. " if found else "It is empty. ")
        + (f"Its folder {nested!r} is one: move it up into the data folder. " if nested else "")
        + (f"{_TO_IMPORT} " if any(path.suffix.lower() in _TABLES for path in entries) else "")
        + f"Looked for {'; '.join(looked_for)}.",
        looked_for=looked_for,
        found=found,
    )


def _described(entries: Sequence[Path]) -> Iterator[str]:
    """Yield what is in a folder that has no known format: tables with their columns, images, folders."""
    shown = [path for path in entries if not path.name.startswith(".")]
    for path in [path for path in shown if path.suffix.lower() in _TABLES][:_SHOWN]:
        yield f"the table {path.name!r} {_columns_of(path)}"
    for path in [path for path in shown if path.suffix.lower() in _WORKBOOKS][:_SHOWN]:
        yield f"the workbook {path.name!r}, which is not read: save it as CSV UTF-8"
    images = [path.name for path in shown if is_image_name(path.name)]
    if images:
        yield f"{len(images):,} images such as {images[0]!r}"
    folders = [path.name for path in shown if path.is_dir()]
    if folders:
        names = ", ".join(repr(name) for name in folders[:_SHOWN])
        yield f"{len(folders):,} folders: {names}" + (", …" if len(folders) > _SHOWN else "")


def _columns_of(path: Path) -> str:
    try:
        names = table_files.columns(path, tables.LIKELY)
    except Problem as problem:
        return f"({problem.detail})"
    listed = ", ".join(repr(name[:_SHOWN]) for name in names[:_SHOWN])
    meant = [f"{name!r}: did you mean {role!r}?" for role, name in tables.similar_columns(names).items()]
    return f"with the columns {listed}" + (f" ({' '.join(meant)})" if meant else "")


def format_name(meta_data: Mapping[str, Any]) -> str:
    """Return the format that an extracted data set's meta-data names; release 0.1.0 called it ``kind``."""
    return str(meta_data.get("format") or meta_data.get("kind") or "unknown")
