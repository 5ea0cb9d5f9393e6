"""List the data sets of a data folder: what each contains, and what has been extracted from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from agegender.errors import Problem, not_found
from agegender.files import read_json
from agegender.spaces import Space
from agegender_service.inputs import DEPRECATED
from pydantic import BaseModel, Field, computed_field

from trainer.datasets.embedding_set import is_dataset_name
from trainer.datasets.formats import format_of, require_format
from trainer.datasets.labels import removal_summary
from trainer.datasets.original import original_image_sets

log = structlog.get_logger(__name__)

# Folders of the data folder that hold something else, beside those whose name begins with a dot.
RESERVED = frozenset(
    {"experiments", "searches", "evaluations", "videos", "models", "packs", "trash", "redis", "lost+found"}
)


class ExtractedSet(BaseModel):
    """The faces of one image set in one embedding space."""

    space: Space
    image_set: str = Field(description="folder of images that was extracted")
    faces: int
    summary: str = Field("", description="faces extracted of all rows of the labels; rows removed, by reason")
    meta_data: dict[str, Any] = Field(description="counts of faces and of removed rows, by reason")

    @computed_field(description="former name of `image_set`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def variant(self) -> str:
        return self.image_set


class Dataset(BaseModel):
    """One data set."""

    name: str
    format: str | None = Field(description="label format; null if the folder has extracted faces only")
    image_sets: list[str] = Field(description="folders of images that can be extracted")
    importable: list[str] = Field(
        description="image sets that the original project extracted, as in data-aligned.npy"
    )
    extracted: list[ExtractedSet]
    problem: str | None = Field(
        None, description="why nothing in the folder can be used; only if all folders are listed"
    )

    @computed_field(description="former name of `format`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def kind(self) -> str | None:
        return self.format

    @computed_field(description="former name of `image_sets`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def variants(self) -> list[str]:
        return self.image_sets


def dataset_folder(data_dir: Path, name: str) -> Path:
    """Return the folder of a data set, which is always inside the data folder. Raises ``not-found`` 404."""
    if (problem := not_a_dataset_name(name)) is not None:
        raise problem
    if not (data_dir / name).is_dir():
        raise not_found("data set", name)
    return data_dir / name


def not_a_dataset_name(name: str) -> Problem | None:
    """Return ``not-found`` 404 with the rule for names that `name` breaks; None if it is allowed."""
    if is_dataset_name(name):
        return None
    rule = (
        "The name of its folder must have up to 100 letters, digits, blanks and any of ._-()+,&'@, "
        "and begin with a letter or a digit."
    )
    return Problem("not-found", 404, f"There is no data set named {name!r}. {rule}")


def datasets(data_dir: Path) -> Iterator[Dataset]:
    """Yield the data set of each folder that contains one, in the order of their names."""
    for folder in _folders(data_dir):
        if not is_dataset_name(folder.name):
            log.warning("folder not listed: its name is not allowed for a data set", folder=folder.name)
            continue
        found = dataset_in(folder)
        if found is not None:
            yield found


def unknown_folders(data_dir: Path) -> Iterator[Dataset]:
    """Yield the other folders, with the reason why they are no data sets."""
    for folder in _folders(data_dir):
        if folder.name.lower() not in RESERVED and dataset_in(folder) is None:
            yield unknown_folder(folder)


def unknown_folder(folder: Path) -> Dataset:
    """Describe a folder whose labels are not recognised."""
    reason = not_a_dataset_name(folder.name)
    try:
        if reason is None:
            require_format(folder)
    except Problem as problem:
        reason = problem
    except OSError as error:  # another user's, or deleted meanwhile
        reason = Problem("unknown-dataset", 422, f"It cannot be read: {error.strerror}.")
    detail = "It is being changed." if reason is None else reason.detail
    return Dataset(name=folder.name, format=None, image_sets=[], importable=[], extracted=[], problem=detail)


def _folders(data_dir: Path) -> Iterator[Path]:
    if data_dir.is_dir():
        yield from sorted(
            path for path in data_dir.iterdir() if path.is_dir() and not path.name.startswith(".")
        )


def dataset_in(folder: Path) -> Dataset | None:
    """Return the data set in a folder, or None if there is none."""
    label_format = format_of(folder)
    extracted = list(_extracted(folder))
    importable = original_image_sets(folder)
    if label_format is None and not extracted and not importable:
        return None
    return Dataset(
        name=folder.name,
        format=None if label_format is None else label_format.name,
        image_sets=[] if label_format is None else label_format.image_sets(folder),
        importable=importable,
        extracted=extracted,
    )


def _extracted(folder: Path) -> Iterator[ExtractedSet]:
    for path in sorted(folder.glob("*/meta-data-*.json")):
        image_set = path.stem.removeprefix("meta-data-")
        if not (path.parent / f"data-{image_set}.npz").is_file():
            continue
        try:
            meta_data = read_json(path)
            yield ExtractedSet(
                space=meta_data["space"],
                image_set=image_set,
                faces=meta_data["faces"],
                summary=meta_data.get("summary")
                or removal_summary(meta_data["faces"], meta_data.get("removed", {})),
                meta_data=meta_data,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:  # damaged, or another program's file
            log.warning(
                "extracted faces not listed: cannot read their meta-data", path=str(path), error=str(error)
            )
