"""Why a job that trains ends before it is done."""

import structlog
from agegender.errors import Problem
from agegender.volume import volume_problem

log = structlog.get_logger(__name__)


class Cancelled(Exception):
    """The experiment or search was cancelled while this job ran."""


def may_pass(error: Exception) -> bool:
    """Whether it is the volume's fault: then the job is enqueued again once that can be written."""
    if not isinstance(error, OSError) or volume_problem(error) is None:
        return False
    log.warning("job given up until the volume can be written", reason=str(error))
    return True


def told(error: Exception) -> str:
    """An error in the words that its user is told."""
    return error.detail if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
