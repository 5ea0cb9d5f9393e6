"""List the data sets of a data folder, what has been extracted from each, and the images in a folder."""

import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
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
from trainer.datasets.labels import is_image_name, removal_summary
from trainer.datasets.original import original_image_sets

log = structlog.get_logger(__name__)

# Folders of the data folder that hold something else, beside those whose name begins with a dot.
RESERVED = frozenset(
    {"experiments", "searches", "evaluations", "videos", "models", "packs", "trash", "redis", "lost+found"}
)
MAX_IMAGES = 1_000_000  # of a folder, that are compared with its labels


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


@dataclass(frozen=True)
class Images:
    """The image files of a folder, and which of them a table means.

    Attributes
    ----------
    paths : relative to the folder, with `/`.
    complete : false if the folder has more images than are listed.
    """

    paths: frozenset[str]
    complete: bool

    @classmethod
    def below(cls, folder: Path) -> "Images":
        paths: set[str] = set()
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            place = Path(parent).relative_to(folder).as_posix()
            paths.update(name if place == "." else f"{place}/{name}" for name in names if is_image_name(name))
            if len(paths) > MAX_IMAGES:
                return cls(frozenset(paths), complete=False)
        return cls(frozenset(paths), complete=True)

    @cached_property
    def _by_ending(self) -> Mapping[str, str | None]:
        """Return the path for each name, and for names that several images have also with their folders.

        Names are compared as `_comparable`, with and without their extension. None means several paths; they
        are found with the letter case that they have, after "=".
        """
        found: dict[str, str | None] = {}
        for path in self.paths:
            name = _comparable(path.rpartition("/")[2])
            for key in {name, _stem(name)}:
                found[key] = None if key in found else path
        shared: dict[str, str | None] = {}
        for path in self.paths:
            parts = _comparable(path).split("/")
            if found[parts[-1]] is None or found[_stem(parts[-1])] is None:
                exact = unicodedata.normalize("NFC", path).split("/")
                for start in range(len(parts)):
                    ending = "/".join(parts[start:])
                    keys = {ending, _stem(ending)} if "/" in ending else set()
                    for key in keys | {"=" + "/".join(exact[start:])}:
                        shared[key] = None if key in shared else path
        return found | shared

    def meant(self, file: str) -> str | None:
        """Return the image that a path of a table leads to: one path is the end of the other.

        Letter case, the form of accents and a missing extension make no difference. A name without folders
        means the only image of this name, in whatever folder it is. None if there is none, or several.
        """
        if file in self.paths:
            return file
        parts, exact = _parts(_comparable(file)), _parts(unicodedata.normalize("NFC", file))
        for start in range(len(parts)):
            path = self._by_ending.get("=" + "/".join(exact[start:]))
            path = path or self._by_ending.get("/".join(parts[start:]))
            if path is not None:
                folders = _comparable(path).split("/")[:-1]
                common = min(len(folders), len(parts) - 1)
                agree = parts[len(parts) - 1 - common : -1] == folders[len(folders) - common :]
                return path if agree and (common or len(parts) == 1) else None
        return None

    def likely(self, file: str) -> str | None:
        """Return the only image that has the name of a path, or its name and last folders."""
        parts = _parts(_comparable(file))
        endings = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((path for ending in endings if (path := self._by_ending.get(ending))), None)

    def resolver(self, files: Callable[[], Iterable[str]]) -> Callable[[str], str]:
        """Return the function that gives each file of a table the path of its image, or leaves it as it is.

        Where no path of the table with a folder leads to an image, its folders are those of another machine:
        the images are found by their names then, unless two rows would get the same image.

        files : returns all files of the table; called if the first that leads nowhere is met.
        """
        elsewhere: dict[str, str] | None = None

        def resolve(file: str) -> str:
            nonlocal elsewhere
            if (path := self.meant(file)) is not None:
                return path
            if elsewhere is None:
                elsewhere = self._elsewhere(set(files()))
            return elsewhere.get(file, file)

        return resolve

    def _elsewhere(self, files: Collection[str]) -> dict[str, str]:
        taken: set[str] = set()
        likely: dict[str, list[str]] = {}
        for file in files:
            if (path := self.meant(file)) is not None:
                if len(_parts(file)) > 1:
                    return {}  # the table's folders are those of this data set
                taken.add(path)
            elif (path := self.likely(file)) is not None:
                likely.setdefault(path, []).append(file)
        return {names[0]: path for path, names in likely.items() if len(names) == 1 and path not in taken}


def _comparable(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _parts(file: str) -> list[str]:
    """Return the folders and the name of a path of any operating system."""
    return [part for part in file.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _stem(path: str) -> str:
    return path.rpartition(".")[0] or path
