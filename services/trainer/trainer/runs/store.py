"""Records on disk: read, list, write and delete them, and report those that cannot be read.

A record may be damaged, written by a later release, or deleted while it is listed. Lists skip such a record
and log why; `unreadable_records` returns the same sentences for `/health/ready`.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from agegender.errors import Problem, not_found
from agegender.files import read_json, write_json
from agegender.spaces import NAME
from pydantic import BaseModel, ValidationError

from trainer.runs.run import FORMAT, Kind, R, RunStatus, S

log = structlog.get_logger(__name__)

FAILURE, REPORT = "failure.json", "report.json"

Record = TypeVar("Record", bound=BaseModel)
T = TypeVar("T")

# A damaged file raises ValueError when it is parsed, and one of the others when a member is missing.
_DAMAGE = (Problem, OSError, ValueError, TypeError, KeyError)
_unreadable: dict[Path, str] = {}  # path of a record → why it could not be read


class UnreadableRecord(Problem):
    """A record exists, but this release cannot read it."""

    def __init__(self, kind: str, name: str, path: Path, reason: str) -> None:
        super().__init__(
            "unreadable-record",
            409,
            f"The {kind} {name} is skipped because {path} cannot be read: {reason}. "
            "Restore the file, or run the release that wrote it. Delete the file if it is not needed.",
        )


def load_record(path: Path, model: type[Record], kind: str, name: str) -> Record:
    """Read one record. Raises ``not-found`` 404 and ``unreadable-record`` 409.

    Parameters
    ----------
    kind, name : of the run, for messages.
    """
    try:
        record = read_json(path)
        if isinstance(record, dict) and isinstance(number := record.get("format"), int) and number > FORMAT:
            reason = f"a later release wrote it (format {number}; this release reads format {FORMAT})"
            raise UnreadableRecord(kind, name, path, reason)
        return model.model_validate(record)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise not_found(kind, name) from error
    except ValidationError as error:
        raise UnreadableRecord(kind, name, path, _sentence(error)) from error
    except (OSError, ValueError) as error:
        raise UnreadableRecord(kind, name, path, _why(error)) from error


def save_record(path: Path, record: BaseModel) -> None:
    write_json(path, record.model_dump(mode="json"))


def new_id(idempotency_key: str | None) -> str:
    """Return a new id; the same key always gives the same id, so a repeated request starts no second run."""
    if idempotency_key is not None:
        return "key-" + hashlib.sha256(idempotency_key.encode()).hexdigest()[:16]
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def folders_with(parent: Path, record: str) -> list[str]:
    """Return the names of the folders in `parent` that have a file `record`."""
    names = (path.parent.name for path in parent.glob(f"*/{record}"))
    return sorted(name for name in names if NAME.fullmatch(name))


def statuses(kind: Kind[R, S], data_dir: Path, names: Iterable[str] | None = None) -> list[S]:
    """Return the status of runs that can be read, newest first.

    names : of the runs; default: all of the kind.
    """
    found = each(kind, data_dir, lambda run: kind.status(data_dir, run), names)
    return sorted(found, key=_created, reverse=True)


def _created(status: RunStatus) -> datetime:
    return status.created


def each(
    kind: Kind[R, S], data_dir: Path, use: Callable[[R], T], names: Iterable[str] | None = None
) -> Iterator[T]:
    """Yield what `use` returns for each run whose files can be read; skip and report the others.

    names : of the runs; default: all of the kind.
    """
    for name in kind.names(data_dir) if names is None else names:
        with _skipping_damage(kind, data_dir, name):
            found = use(kind.load(data_dir, name))
            _unreadable.pop(kind.record_path(data_dir, name), None)
            yield found


@contextmanager
def _skipping_damage(kind: Kind[R, S], data_dir: Path, name: str) -> Iterator[None]:
    """Log, once, what is damaged in the files of one run, and continue with the next run."""
    try:
        yield
    except _DAMAGE as error:
        path = kind.record_path(data_dir, name)
        reason = _reason(kind.name, name, path, error)
        if reason is not None and _unreadable.get(path) != reason:
            _unreadable[path] = reason
            log.warning("record skipped", kind=kind.name, name=name, reason=reason)


def unreadable_records(data_dir: Path) -> list[str]:
    """Return a sentence for each record that could not be read when it was last needed."""
    found = sorted((path, reason) for path, reason in _unreadable.items() if path.exists())
    return [reason for path, reason in found if path.is_relative_to(data_dir)]


def unreadable_names(kind: Kind[R, S], data_dir: Path, names: Iterable[str] | None = None) -> list[str]:
    """Return the names of the runs that the last list skipped.

    names : of the runs in the list; default: all of the kind.
    """
    listed = kind.names(data_dir) if names is None else names
    return [name for name in listed if kind.record_path(data_dir, name) in _unreadable]


def read_optional(path: Path) -> Any:
    """Read JSON; None if there is no such file or it is damaged."""
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return None


def _reason(kind: str, name: str, path: Path, error: Exception) -> str | None:
    """Return None for a record that was deleted after it was listed."""
    if isinstance(error, Problem):
        return None if error.slug == "not-found" else error.detail
    return f"The {kind} {name} is skipped because a file in {path.parent} is damaged: {_why(error)}"


def _why(error: Exception) -> str:
    """Return the same reason each time: the text of an OSError may contain the number of a file handle."""
    text = error.strerror if isinstance(error, OSError) else error
    return f"{type(error).__name__}: {text}"


def _sentence(error: ValidationError) -> str:
    fields = [f"{'.'.join(map(str, item['loc'])) or 'record'}: {item['msg']}" for item in error.errors()[:3]]
    more = error.error_count() - len(fields)
    return "; ".join(fields) + (f"; and {more} more" if more > 0 else "")
