"""Which kind of data set lies in a folder."""

from pathlib import Path

from agegender.errors import Problem

from trainer.datasets.formats import adience, fairface, imdb_wiki, labels_csv, utkface
from trainer.datasets.labels import DatasetFormat

# The first that recognises a folder reads it: a labels.csv beside UTKFace's file names is meant.
FORMATS: tuple[DatasetFormat, ...] = (
    adience.FORMAT,
    imdb_wiki.FORMAT,
    fairface.FORMAT,
    labels_csv.FORMAT,
    utkface.FORMAT,
)


def format_of(folder: Path) -> DatasetFormat | None:
    """The kind of the data set in a folder, None where nothing is recognised."""
    return next((kind for kind in FORMATS if kind.variants(folder)), None)


def require_format(folder: Path) -> DatasetFormat:
    """As `format_of`, or the problem ``unknown-dataset`` 422, which lists what was looked for."""
    if (kind := format_of(folder)) is not None:
        return kind
    looked_for = [kind.looks_for for kind in FORMATS]
    nested = next((path.name for path in sorted(folder.iterdir()) if path.is_dir() and format_of(path)), None)
    raise Problem(
        "unknown-dataset",
        422,
        f"Nothing in the folder {folder.name!r} is a data set that can be read. Looked for "
        + "; ".join(looked_for)
        + "."
        + (f" The folder {nested!r} in it is one: move it up into the data folder." if nested else ""),
        looked_for=looked_for,
    )
