"""The data sets of a data folder: what lies in each, and what has been extracted from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from agegender.errors import Problem, not_found
from agegender.files import read_json
from agegender.spaces import Space
from pydantic import BaseModel, Field

from trainer.datasets.embedding_set import is_dataset_name
from trainer.datasets.formats import format_of
from trainer.datasets.labels import removal_summary
from trainer.datasets.original import original_variants

log = structlog.get_logger(__name__)


class ExtractedSet(BaseModel):
    """The faces of one variant in one space."""

    space: Space
    variant: str
    faces: int
    summary: str = Field("", description="faces of all rows of the labels; what was removed, and why")
    meta_data: dict[str, Any] = Field(description="counts of faces and of everything removed, and why")


class Dataset(BaseModel):
    """One data set."""

    name: str
    kind: str | None = Field(description="how its labels are read; null where only extracted faces lie there")
    variants: list[str] = Field(description="folders of images that can be extracted")
    importable: list[str] = Field(description="variants that the original extracted, in data-aligned.npy")
    extracted: list[ExtractedSet]


def datasets(data_dir: Path) -> Iterator[Dataset]:
    """All folders with a data set in them, by name."""
    if not data_dir.is_dir():
        return
    for folder in sorted(data_dir.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if not is_dataset_name(folder.name):
            log.warning("folder not listed: its name is none of a data set", folder=folder.name)
            continue
        found = dataset_in(folder)
        if found is not None:
            yield found


def dataset_in(folder: Path) -> Dataset | None:
    """The data set in a folder, None where there is none."""
    kind = format_of(folder)
    extracted = list(_extracted(folder))
    importable = original_variants(folder)
    if kind is None and not extracted and not importable:
        return None
    return Dataset(
        name=folder.name,
        kind=None if kind is None else kind.name,
        variants=[] if kind is None else kind.variants(folder),
        importable=importable,
        extracted=extracted,
    )


def _extracted(folder: Path) -> Iterator[ExtractedSet]:
    for path in sorted(folder.glob("*/meta-data-*.json")):
        variant = path.stem.removeprefix("meta-data-")
        if not (path.parent / f"data-{variant}.npz").is_file():
            continue
        try:
            meta_data = read_json(path)
            yield ExtractedSet(
                space=meta_data["space"],
                variant=variant,
                faces=meta_data["faces"],
                summary=meta_data.get("summary")
                or removal_summary(meta_data["faces"], meta_data.get("removed", {})),
                meta_data=meta_data,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:  # not written by us, or damaged
            log.warning(
                "extracted faces not offered: meta-data cannot be read", path=str(path), error=str(error)
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
