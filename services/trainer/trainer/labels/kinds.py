"""Which kind of data set lies in a folder."""

from pathlib import Path

from agegender.datasets import is_dataset_name
from agegender.errors import Problem, not_found

from trainer.labels import adience, fairface, imdb_wiki, labels_csv, utkface
from trainer.labels.labelled import DatasetKind

# The first that recognises a folder reads it: a labels.csv beside UTKFace's file names is meant.
KINDS: tuple[DatasetKind, ...] = (
    adience.KIND,
    imdb_wiki.KIND,
    fairface.KIND,
    labels_csv.KIND,
    utkface.KIND,
)


def dataset_folder(data_dir: Path, name: str) -> Path:
    """Return the folder of a data set. Raises ``not-found`` 404; a name never leaves the data folder."""
    if not is_dataset_name(name):
        rule = (
            "The name of its folder must have up to 100 letters, digits, blanks and any of ._-()+,&'@, "
            "and begin with a letter or a digit."
        )
        raise Problem("not-found", 404, f"There is no data set named {name!r}. {rule}")
    if not (data_dir / name).is_dir():
        raise not_found("data set", name)
    return data_dir / name


def kind_of(folder: Path) -> DatasetKind | None:
    """The kind of the data set in a folder, None where nothing is recognised."""
    return next((kind for kind in KINDS if kind.variants(folder)), None)


def require_kind(folder: Path) -> DatasetKind:
    """As `kind_of`, or the problem ``unknown-dataset`` 422, which lists what was looked for."""
    if (kind := kind_of(folder)) is not None:
        return kind
    looked_for = [kind.looks_for for kind in KINDS]
    nested = next((path.name for path in sorted(folder.iterdir()) if path.is_dir() and kind_of(path)), None)
    raise Problem(
        "unknown-dataset",
        422,
        f"Nothing in the folder {folder.name!r} is a data set that can be read. Looked for "
        + "; ".join(looked_for)
        + "."
        + (f" The folder {nested!r} in it is one: move it up into the data folder." if nested else ""),
        looked_for=looked_for,
    )
