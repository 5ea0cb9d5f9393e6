"""Runs: records on disk, the steps that are needed next, and a status, which each kind provides.

Requests, jobs and the scheduler change records at the same time. Each change reads the record and writes it
while it holds the record's lock, so none is lost and no deleted run comes back.

A record may be damaged, written by a later release, or deleted while it is listed. Lists skip such a record
and log why; `unreadable_records` returns the same sentences for `/health/ready`.
"""

import hashlib
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import structlog
from agegender.errors import Problem, not_found
from agegender.files import FileLock, read_json, write_json
from agegender.spaces import NAME
from pydantic import BaseModel, Field, ValidationError

log = structlog.get_logger(__name__)

State = Literal["queued", "running", "finished", "failed", "cancelled"]
TRASH, DELETED = ".trash", "deleted.json"  # the folder of deleted runs, and the record of one
FORMAT = 1  # version of the records that this release reads and writes
FAILURE, REPORT = "failure.json", "report.json"

Record = TypeVar("Record", bound=BaseModel)
T = TypeVar("T")

# A damaged file raises ValueError when it is parsed, and one of the others when a member is missing.
_DAMAGE = (Problem, OSError, ValueError, TypeError, KeyError)
_unreadable: dict[Path, str] = {}  # path of a record → why it could not be read


class Run(BaseModel):
    """The record of a run. The files beside it, not the record, say how far the run is."""

    format: int = Field(
        FORMAT, ge=1, le=FORMAT, description="version of the record; release 0.1.0 wrote none, which means 1"
    )
    id: str
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    cancelled: bool = False


class RunStatus(BaseModel):
    """Progress of a run. Each kind adds its own fields, and narrows the states."""

    id: str
    state: Any
    created: datetime


@dataclass(frozen=True)
class Step:
    """A queue job that a run needs next.

    Parameters
    ----------
    job_id : unique in the queue; the same step always has the same.
    job : function of `trainer.jobs` that the worker calls.
    arguments : names only, because the truth lies on disk.
    seconds : time limit.
    first : whether the job goes before those that wait.
    """

    job_id: str
    job: Callable[..., None]
    arguments: tuple[str | int, ...]
    seconds: int
    first: bool = False


R = TypeVar("R", bound=Run)
S = TypeVar("S", bound=RunStatus)


class Kind(ABC, Generic[R, S]):
    """A kind of run.

    `steps` and `status` are pure functions of the files below `data_dir`. A run is addressed by a name, which
    is its id unless the kind overrides `name_of`.
    """

    name: ClassVar[str]  # as messages call a run
    article: ClassVar[str] = "an"
    path: ClassVar[str]  # of its routes
    has_trash: ClassVar[bool] = True  # a deleted run can be restored
    active: ClassVar[frozenset[str]] = frozenset({"queued", "running"})

    @abstractmethod
    def names(self, data_dir: Path) -> list[str]:
        """Return the names of all runs, including those whose record cannot be read."""

    def name_of(self, run: R) -> str:
        """Return the name that addresses a run."""
        return run.id

    @abstractmethod
    def record_path(self, data_dir: Path, name: str) -> Path:
        """Return a record's file. Raises ``not-found`` 404 for a name that could leave the folder."""

    @abstractmethod
    def load(self, data_dir: Path, name: str) -> R:
        """Read a record. Raises ``not-found`` 404 and ``unreadable-record`` 409."""

    @abstractmethod
    def save(self, data_dir: Path, run: R) -> None:
        """Write a record. Only `create` and `change` call it, which hold its lock."""

    @abstractmethod
    def steps(self, data_dir: Path, run: R) -> Iterator[Step]:
        """Yield the steps that can be done now; none for a run that is over."""

    @abstractmethod
    def status(self, data_dir: Path, run: R) -> S:
        """Return how far a run is."""

    def clear_failures(self, data_dir: Path, run: R) -> None:
        """Remove the files that mark failed steps, so that these are done again."""

    def create(self, data_dir: Path, name: str, complete: Callable[[], R]) -> R:
        """Store and return a new run; return the one of this name if there is one."""
        path = self.record_path(data_dir, name)
        if path.exists():
            return self.load(data_dir, name)
        run = complete()
        path.parent.mkdir(parents=True, exist_ok=True)
        with record_lock(path):
            if path.exists():
                return self.load(data_dir, name)
            self.save(data_dir, run)
        return run

    def change(self, data_dir: Path, name: str, change: Callable[[R], R]) -> R:
        """Replace a record by what `change` returns for it; return that.

        No other change comes between. If `change` raises, or returns its argument, the record stays as it is.
        Raises as `load` does.
        """
        with self._locked(data_dir, name) as run:
            changed = change(run)
            if changed is not run:
                self.save(data_dir, changed)
        return changed

    def cancelled(self, data_dir: Path, run: R) -> R:
        """Return the record of an active run once it is cancelled."""
        return run.model_copy(update={"cancelled": True})

    def resumed(self, data_dir: Path, run: R) -> R:
        """Return the record of a run that continues, and remove what marks its failed steps."""
        self.clear_failures(data_dir, run)
        return run.model_copy(update={"cancelled": False})

    def require_unused(self, data_dir: Path, run: R) -> None:
        """Raise a problem if something still depends on the run."""

    def delete(
        self, data_dir: Path, name: str, allow: Callable[[R], None], *, restorable: bool = True
    ) -> None:
        """Remove a run. The record goes first: without it there is no run.

        allow : raises a problem if the run must stay.
        restorable : move its files to the trash, if the kind has one, instead of removing them.
        """
        with self._locked(data_dir, name) as run:
            allow(run)
            record = self.record_path(data_dir, name)
            if restorable and self.has_trash:
                record.touch()  # the week begins
                record.replace(record.with_name(DELETED))
            else:
                record.unlink(missing_ok=True)
        if restorable and self.has_trash:
            trashed = self.trashed(data_dir, name)
            shutil.rmtree(trashed, ignore_errors=True)  # of an earlier run of this name
            trashed.parent.mkdir(parents=True, exist_ok=True)
            record.parent.rename(trashed)
        else:
            self.remove_files(data_dir, run)

    def restore(self, data_dir: Path, name: str) -> R:
        """Return a deleted run, brought back from the trash. Safe to repeat. Raises ``not-found`` 404."""
        record, trashed = self.record_path(data_dir, name), self.trashed(data_dir, name)
        if record.exists():
            return self.load(data_dir, name)
        if (trashed / DELETED).is_file():
            shutil.rmtree(record.parent, ignore_errors=True)  # written by a job that ended after the deletion
            record.parent.parent.mkdir(parents=True, exist_ok=True)
            trashed.rename(record.parent)
        if not record.with_name(DELETED).is_file():
            message = f"There is no {self.name} named {name!r}, and none in the trash, which keeps a week."
            raise Problem("not-found", 404, message)
        record.with_name(DELETED).replace(record)
        return self.load(data_dir, name)

    def trashed(self, data_dir: Path, name: str) -> Path:
        """Return the folder of a deleted run."""
        return data_dir / TRASH / self.path / name

    def remove_files(self, data_dir: Path, run: R) -> None:
        """Remove the files of a run that has no record any more."""
        record = self.record_path(data_dir, self.name_of(run))
        shutil.rmtree(record.parent, ignore_errors=True)

    @contextmanager
    def _locked(self, data_dir: Path, name: str) -> Iterator[R]:
        """Yield a run as it is stored now; its record does not change until the block ends."""
        self.load(data_dir, name)  # reports an absent run, whose folder cannot hold a lock
        lock = record_lock(self.record_path(data_dir, name))
        try:
            lock.acquire()
        except FileNotFoundError as error:
            raise not_found(self.name, name) from error
        try:
            yield self.load(data_dir, name)
        finally:
            lock.release()

    def is_active(self, status: S) -> bool:
        return status.state in self.active

    def active_run(self, data_dir: Path, name: str) -> R | None:
        """Return a run, None if it was cancelled or deleted or cannot be read."""
        try:
            run = self.load(data_dir, name)
        except Problem:
            return None
        return None if run.cancelled else run


def record_lock(record: Path) -> FileLock:
    """Return the lock of a record. Whoever changes the record reads it after acquiring the lock."""
    return FileLock(record.with_name(f".{record.name}.lock"))


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
