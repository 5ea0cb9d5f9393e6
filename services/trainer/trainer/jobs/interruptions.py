"""What becomes of a job that trains or reports and ends before it is done."""

from collections.abc import Callable
from pathlib import Path

import structlog
from agegender.errors import Problem
from agegender.files import write_json
from agegender.volume import volume_problem

from trainer.experiments.progress import Superseded
from trainer.experiments.store import FAILURE
from trainer.training.epochs import EpochReport

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
    """A `fail` for `succeeds` that writes FAILURE into `directory`; what happened stands after `before`."""

    def fail(told: str) -> None:
        write_json(directory / FAILURE, {"detail": f"{before}{told}"})

    return fail


def succeeds(work: Callable[[], None], fail: Callable[[str], None], **names: str | int) -> bool:
    """Do `work`. A failure is given to `fail`, for the user, who may cure it and resume.

    False where the work is another's now, or waits until the volume can be written: then nothing follows.
    names : of the work, for the log.
    """
    try:
        work()
    except (Cancelled, Superseded) as reason:
        log.info("job given up", reason=type(reason).__name__, **names)
        return False
    except Exception as error:
        if isinstance(error, OSError) and volume_problem(error) is not None:
            log.warning("job given up until the volume can be written", reason=str(error), **names)
            return False
        foreseen = isinstance(error, Problem)  # its words tell all
        told = error.detail if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
        log.error("job failed", reason=told, exc_info=None if foreseen else error, **names)
        fail(told)
    return True
