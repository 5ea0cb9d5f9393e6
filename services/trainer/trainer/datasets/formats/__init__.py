"""Label formats: a module per format, and the list in which they are tried."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agegender.errors import Problem

from trainer.datasets.formats import adience, fairface, imdb_wiki, labels_csv, utkface
from trainer.datasets.labels import DatasetFormat

# The first format that recognises a folder reads it, so labels.csv precedes UTKFace's file names.
FORMATS: tuple[DatasetFormat, ...] = (
    adience.FORMAT,
    imdb_wiki.FORMAT,
    fairface.FORMAT,
    labels_csv.FORMAT,
    utkface.FORMAT,
)


def format_of(folder: Path) -> DatasetFormat | None:
    """Return the format of the data set in a folder, or None if no format recognises it."""
    return next((candidate for candidate in FORMATS if candidate.image_sets(folder)), None)


def require_format(folder: Path) -> DatasetFormat:
    """Return the format of the data set in a folder.

    Raises ``unknown-dataset`` 422 if no format recognises it; the problem lists what was looked for.
    """
    if (found := format_of(folder)) is not None:
        return found
    looked_for = [candidate.looks_for for candidate in FORMATS]
    nested = next((path.name for path in sorted(folder.iterdir()) if path.is_dir() and format_of(path)), None)
    raise Problem(
        "unknown-dataset",
        422,
        f"Nothing in the folder {folder.name!r} is a data set that can be read. Looked for "
        + "; ".join(looked_for)
        + "."
        + (f" Its folder {nested!r} is one: move it up into the data folder." if nested else ""),
        looked_for=looked_for,
    )


def format_name(meta_data: Mapping[str, Any]) -> str:
    """Return the format that an extracted data set's meta-data names; release 0.1.0 called it ``kind``."""
    return str(meta_data.get("format") or meta_data.get("kind") or "unknown")
