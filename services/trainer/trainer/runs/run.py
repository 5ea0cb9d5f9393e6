"""Runs: a record on disk, the steps that are needed next, and a status, which each kind provides."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import structlog
from agegender.errors import Problem
from pydantic import BaseModel, Field, JsonValue

log = structlog.get_logger(__name__)

DEPRECATED: dict[str, JsonValue] = {"deprecated": True}  # of a field's JSON schema

State = Literal["queued", "running", "finished", "failed", "cancelled"]
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
        """Write a record."""

    @abstractmethod
    def steps(self, data_dir: Path, run: R) -> Iterator[Step]:
        """Yield the steps that can be done now; none for a run that is over."""

    @abstractmethod
    def status(self, data_dir: Path, run: R) -> S:
        """Return how far a run is."""

    def clear_failures(self, data_dir: Path, run: R) -> None:
        """Remove the files that mark failed steps, so that these are done again."""

    def cancel(self, data_dir: Path, run: R) -> R:
        """Store that an active run is cancelled; return its record."""
        cancelled = run.model_copy(update={"cancelled": True})
        self.save(data_dir, cancelled)
        return cancelled

    def resume(self, data_dir: Path, run: R) -> R:
        """Store that a run continues, and repeats what failed; return its record."""
        resumed = run.model_copy(update={"cancelled": False})
        self.clear_failures(data_dir, run)
        self.save(data_dir, resumed)
        return resumed

    def require_unused(self, data_dir: Path, run: R) -> None:
        """Raise a problem if something still depends on the run."""

    @abstractmethod
    def delete(self, data_dir: Path, run: R) -> None:
        """Remove a run's files."""

    def is_active(self, status: S) -> bool:
        return status.state in self.active

    def active_run(self, data_dir: Path, name: str) -> R | None:
        """Return a run, None if it was cancelled or deleted or cannot be read."""
        try:
            run = self.load(data_dir, name)
        except Problem:
            return None
        return None if run.cancelled else run


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
