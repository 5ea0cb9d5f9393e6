"""What becomes of a job that trains or reports and ends before it is done."""

from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

import structlog
from agegender.errors import Problem, volume_problem
from agegender.files import write_json

from trainer.experiments.progress import Superseded
from trainer.experiments.store import FAILURE
from trainer.training.config import EpochReport

log = structlog.get_logger(__name__)

_LOOK_EVERY = 5  # epochs, for a cancellation


class Cancelled(Exception):
    """The experiment or search was cancelled while this job ran."""


def raising_where_unwanted(wanted: Callable[[], object]) -> Callable[[EpochReport], None]:
    """Raises `Cancelled` once `wanted` gives None."""

    def look(report: EpochReport) -> None:
        if report.epoch % _LOOK_EVERY == 0 and wanted() is None:
            raise Cancelled

    return look


def noting_failure(directory: Path, before: str = "") -> Callable[[str], None]:
    """A `fail` for `attempt` that writes FAILURE into `directory`; what happened stands after `before`."""

    def fail(message: str) -> None:
        write_json(directory / FAILURE, {"detail": f"{before}{message}"})

    return fail


class Outcome(Enum):
    """How one attempt at a job's work ended."""

    DONE = auto()
    FAILED = auto()  # and `fail` has noted it, for the user, who may mend the cause and resume
    GIVEN_UP = auto()  # cancelled, another attempt's now, or waiting until the volume can be written

    @property
    def is_over(self) -> bool:
        """Whether the work has its last file, its result or its failure, so that what follows is due."""
        return self is not Outcome.GIVEN_UP


def attempt(work: Callable[[], None], fail: Callable[[str], None], **names: str | int) -> Outcome:
    """Do `work`; pass the message of a failure to `fail`.

    names : of the work, for the log. Raises nothing that `work` raises, but what `fail` does.
    """
    try:
        work()
    except (Cancelled, Superseded) as reason:
        log.info("job given up", reason=type(reason).__name__, **names)
        return Outcome.GIVEN_UP
    except Exception as error:
        if isinstance(error, OSError) and volume_problem(error) is not None:
            log.warning("job given up until the volume can be written", reason=str(error), **names)
            return Outcome.GIVEN_UP
        expected = isinstance(error, Problem)  # the message is enough
        message = error.detail if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
        log.error("job failed", reason=message, exc_info=None if expected else error, **names)
        fail(message)
        return Outcome.FAILED
    return Outcome.DONE
