"""One attempt at a step: count it, report its progress, and stop it when it is not needed any more.

progress.json in the step's folder belongs to the newest attempt. A worker that is presumed dead may live on,
cut off from Redis or orphaned by its parent, while another attempt has begun. Each attempt increments
`attempts`; an older one that finds a higher number than its own stops.
"""

import os
import socket
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

import structlog
from agegender.errors import Problem, volume_problem
from agegender.files import write_json

from trainer.runs.run import FAILURE, read_optional

log = structlog.get_logger(__name__)

PROGRESS = "progress.json"
MAX_ATTEMPTS = 10
_REPORT_SECONDS = 0.3
_CURVE_POINTS = 100


class GivenUp(Exception):
    """The attempt must stop and leave the step as it is."""


class Cancelled(GivenUp):
    """The run was cancelled or deleted."""


class Superseded(GivenUp):
    """A newer attempt owns the step."""


class PutOff(GivenUp):
    """Something that the step needs is unavailable; the scheduler enqueues the step again."""


class TooManyAttempts(Problem):
    """The step killed its worker, or lost it, too often."""

    def __init__(self) -> None:
        super().__init__(
            "jobs-lost",
            500,
            f"{MAX_ATTEMPTS} attempts ended without a result; the worker's log may say why. Resume it.",
        )


class Epoch(Protocol):
    """Progress of training after an epoch; losses are means over the ensemble's members."""

    @property
    def epoch(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def validation_loss(self) -> float | None: ...
    @property
    def members_running(self) -> int: ...


class Attempt:
    """The newest attempt at a step.

    Parameters
    ----------
    directory : folder of the step, made if it is absent.
    is_needed : whether the run still needs the step.

    Raises `TooManyAttempts` if `MAX_ATTEMPTS` have ended without a result since the run was last resumed.
    """

    def __init__(self, directory: Path, is_needed: Callable[[], bool] = lambda: True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / PROGRESS
        self._is_needed = is_needed
        self._started = time.monotonic()
        self._first_epoch: int | None = None
        self._written = float("-inf")
        before = _read(self._path)
        self._curve: list[Any] = list(before.get("curve", []))
        self._number = int(before.get("attempts", 0)) + 1
        earlier = int(before.get("attempts_before_resume", 0))
        if self._number - earlier > MAX_ATTEMPTS:
            raise TooManyAttempts
        self._own = {
            "attempts": self._number,
            # The job's parent process is the worker that took it.
            "worker": f"{socket.gethostname()}:{os.getppid()}",
            **({"attempts_before_resume": earlier} if earlier else {}),
        }
        write_json(self._path, {**before, **self._own})

    def check(self) -> None:
        """Raise `Superseded` or `Cancelled` if this attempt must stop."""
        if int(_read(self._path).get("attempts", 0)) != self._number:
            raise Superseded
        if not self._is_needed():
            raise Cancelled

    def write(self, progress: dict[str, Any], *, last: bool = False) -> None:
        """Write progress, at most a few times a second unless it is the last; then `check`."""
        now = time.monotonic()
        if now - self._written < _REPORT_SECONDS and not last:
            return
        self._written = now
        self.check()
        write_json(self._path, {**progress, **self._own})

    def report(self, epoch: Epoch) -> None:
        """Write the progress of training, as `write` does."""
        if self._first_epoch is None:
            self._first_epoch = epoch.epoch - 1
            self._curve = [point for point in self._curve if point[0] < epoch.epoch]
        self._add_to_curve(epoch)
        rate = (time.monotonic() - self._started) / max(1, epoch.epoch - self._first_epoch)
        self.write(
            {
                "epoch": epoch.epoch,
                "epochs": epoch.epochs,
                "train_loss": round(epoch.train_loss, 5),
                "validation_loss": _rounded(epoch.validation_loss, 5),
                "seconds_left": round(rate * (epoch.epochs - epoch.epoch), 1),
                "curve": self._curve,
            },
            last=epoch.epoch == epoch.epochs or not epoch.members_running,
        )

    def _add_to_curve(self, epoch: Epoch) -> None:
        """Add every epoch, or every n-th, so that a curve has at most `_CURVE_POINTS`."""
        every = -(-epoch.epochs // _CURVE_POINTS)
        if epoch.epoch % every == 0 or epoch.epoch == 1:
            losses = round(epoch.train_loss, 4), _rounded(epoch.validation_loss, 4)
            self._curve.append([epoch.epoch, *losses])


class Outcome(Enum):
    """The end of an attempt."""

    DONE = auto()
    FAILED = auto()  # the failure is stored for the user, who may mend the cause and resume
    GIVEN_UP = auto()  # cancelled, superseded, or waiting until something passes

    @property
    def is_over(self) -> bool:
        """Return whether the step has its last file, a result or a failure, so that later steps are due."""
        return self is not Outcome.GIVEN_UP


def carry_out(work: Callable[[], object], fail: Callable[[Problem], None], **names: str | int) -> Outcome:
    """Do `work`; pass a failure to `fail`.

    Parameters
    ----------
    fail : stores the problem. An unexpected exception is passed as ``job-failed`` 500.
    names : of the step, for the log.

    Raises nothing that `work` raises, but what `fail` does.
    """
    try:
        work()
    except GivenUp as reason:
        log.info("job given up", reason=str(reason) or type(reason).__name__, **names)
        return Outcome.GIVEN_UP
    except Problem as problem:
        log.error("job failed", reason=problem.detail, **names)
        fail(problem)
        return Outcome.FAILED
    except Exception as error:
        of_volume = volume_problem(error) if isinstance(error, OSError) else None
        if of_volume is not None and of_volume.retry_after is not None:
            log.warning("job given up until the volume can be written", reason=str(error), **names)
            return Outcome.GIVEN_UP
        message = f"{type(error).__name__}: {error}"
        log.error("job failed", reason=message, exc_info=error, **names)
        fail(of_volume or Problem("job-failed", 500, message))
        return Outcome.FAILED
    return Outcome.DONE


def store_failure(directory: Path, prefix: str = "") -> Callable[[Problem], None]:
    """Return a `fail` for `carry_out` that writes the detail, after `prefix`, into `directory`."""

    def fail(problem: Problem) -> None:
        write_json(directory / FAILURE, {"detail": f"{prefix}{problem.detail}"})

    return fail


def clear_failure(directory: Path) -> None:
    """Remove a step's failure, if it has one, and allow it as many attempts as a new step has."""
    if (directory / FAILURE).exists():
        (directory / FAILURE).unlink(missing_ok=True)
        renew_attempts(directory)


def renew_attempts(directory: Path) -> None:
    """Allow a step that no attempt works on as many attempts as a new step has."""
    before = _read(directory / PROGRESS)
    if "attempts" in before:
        write_json(directory / PROGRESS, {**before, "attempts_before_resume": before["attempts"]})


def _read(path: Path) -> dict[str, Any]:
    value = read_optional(path)
    return value if isinstance(value, dict) else {}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
