"""The records of experiments and searches on the volume: one that cannot be read never hides the others.

A record may be damaged, written by a later release, or deleted while it is listed. `readable` leaves such a
record out and logs why; `left_out` gives the same sentences for `/health/ready`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import structlog
from agegender.errors import Problem, not_found
from agegender.files import read_json
from pydantic import BaseModel, ValidationError

log = structlog.get_logger(__name__)

Record = TypeVar("Record", bound=BaseModel)
Shown = TypeVar("Shown")

# A damaged file raises ValueError where it is parsed, and one of the others where a member is missing.
_DAMAGE = (Problem, OSError, ValueError, TypeError, KeyError)
_left_out: dict[Path, str] = {}  # folder of a record → why it could not be read


class UnreadableRecord(Problem):
    """A record exists, and this release cannot read it."""

    def __init__(self, what: str, path: Path, reason: str) -> None:
        super().__init__(
            "unreadable-record",
            409,
            f"The {what} {path.parent.name} is left out, because {path} cannot be read: {reason}. "
            "Restore the file, or run the release that wrote it. Delete the folder if it is not needed.",
        )


def load_record(path: Path, model: type[Record], what: str) -> Record:
    """Read one record.

    what : the kind of record, for messages. Raises ``not-found`` 404 and ``unreadable-record`` 409.
    """
    try:
        return model.model_validate(read_json(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise not_found(what, path.parent.name) from error
    except ValidationError as error:
        raise UnreadableRecord(what, path, _sentence(error)) from error
    except (OSError, ValueError) as error:
        raise UnreadableRecord(what, path, f"{type(error).__name__}: {error}") from error


def record_folders(folder: Path, name: str) -> list[Path]:
    """The folders within `folder` that have a record, a file called `name`."""
    return sorted(path.parent for path in folder.glob(f"*/{name}"))


def readable(folders: list[Path], load: Callable[[str], Shown]) -> Iterator[Shown]:
    """Call `load` with the name of each folder; a record that cannot be read is left out and logged."""
    for folder in folders:
        with skipping_damage(folder):
            found = load(folder.name)
            _left_out.pop(folder, None)
            yield found


@contextmanager
def skipping_damage(folder: Path) -> Iterator[None]:
    """Log, once, what is damaged in the files of one record, so that the next record has its turn."""
    try:
        yield
    except _DAMAGE as error:
        reason = _reason(folder, error)
        if reason is not None and _left_out.get(folder) != reason:
            _left_out[folder] = reason
            log.warning("record left out", record=folder.name, reason=reason)


def left_out(data_dir: Path) -> list[str]:
    """A sentence for each record that could not be read when it was last needed."""
    found = sorted((folder, reason) for folder, reason in _left_out.items() if folder.exists())
    return [reason for folder, reason in found if folder.is_relative_to(data_dir)]


def _reason(folder: Path, error: Exception) -> str | None:
    """None for a record that was deleted since it was listed."""
    if isinstance(error, Problem):
        return None if error.slug == "not-found" else error.detail
    return f"{folder} is left out, because a file of it is damaged: {type(error).__name__}: {error}"


def _sentence(error: ValidationError) -> str:
    fields = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3]]
    more = error.error_count() - len(fields)
    return "; ".join(fields) + (f"; and {more} more" if more > 0 else "")
