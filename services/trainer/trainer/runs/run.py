"""Runs: a record on disk, the steps that are needed next, and a status, which each kind provides.

Requests, jobs and the scheduler change records at the same time. Each change reads the record and writes it
while it holds the record's lock, so none is lost and no deleted run comes back.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import structlog
from agegender.errors import Problem, not_found
from agegender.files import FileLock
from pydantic import BaseModel, Field, JsonValue

log = structlog.get_logger(__name__)

DEPRECATED: dict[str, JsonValue] = {"deprecated": True}  # of a field's JSON schema

State = Literal["queued", "running", "finished", "failed", "cancelled"]
TRASH, DELETED = ".trash", "deleted.json"  # the folder of deleted runs, and the record of one
FORMAT = 1  # version of the records that this release reads and writes


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


def with_new_names(data: Any, names: Mapping[str, str]) -> Any:
    """Return a request's fields under their present names; log each old name once.

    names : old name → new name. A field that is given under both names keeps both, so validation rejects it.
    """
    if not isinstance(data, Mapping):
        return data
    renamed = dict(data)
    for old, new in names.items():
        if old in renamed and new not in renamed:
            log_deprecated_name(old, new)
            renamed[new] = renamed.pop(old)
    return renamed


@cache
def log_deprecated_name(old: str, new: str) -> None:
    """Log, once per process, that a client uses a name that the next release drops."""
    log.warning("deprecated name in a request; the next release rejects it", name=old, use=new)
