"""Keep the queue in step with the states of extractions, as it is kept for experiments and searches.

An extraction that is active has a job that will end it. If Redis lost the job, its attempt begins again and
goes on from the chunks on disk; if the job is over all the same, it failed unexpectedly: the state says so.
"""

from pathlib import Path

import structlog
from agegender.errors import Problem
from rq import Queue
from rq.job import Job

from trainer.extraction.state import ACTIVE, Extraction, read_state, states_of, write_state
from trainer.jobs.attempts import ENDING, enqueue_first, has_jobs
from trainer.records import skipping_damage

log = structlog.get_logger(__name__)

_LOCK_SECONDS = 30.0
_LOST = "Its jobs are gone; the worker's log may say why. Start it again."


def start_lock(extraction: Extraction) -> str:
    """Name of the lock within which an attempt begins."""
    return f"agegender:start:{extraction.id}"


def reconcile_extractions(data_dir: Path, queue: Queue) -> None:
    """Settle every active extraction. Raises `RedisError`."""
    for folder in sorted(path for path in data_dir.iterdir() if path.is_dir()):
        for extraction in states_of(folder):
            if extraction.state in ACTIVE:
                with skipping_damage(folder):
                    settled(data_dir, queue, extraction)


def settled(data_dir: Path, queue: Queue, extraction: Extraction) -> Extraction:
    """The extraction as it is stored, once a lost job is replaced and a failed one is written down."""
    if extraction.state not in ACTIVE or has_jobs(queue, extraction):
        return extraction
    with queue.connection.lock(start_lock(extraction), timeout=_LOCK_SECONDS):
        # Its last job may have ended since the state was read, or another attempt begun.
        path = (extraction.dataset, extraction.space.id, extraction.variant)
        extraction = read_state(data_dir, *path) or extraction
        if extraction.state not in ACTIVE or has_jobs(queue, extraction):
            return extraction
        known = [Job.exists(extraction.job_id(part), connection=queue.connection) for part in ENDING]
        if any(known):
            lost = Problem(
                "jobs-lost", 500, "Its jobs are gone; the worker's log may say why. Start it again."
            )
            problem = extraction.problem or lost.document()
            return write_state(data_dir, extraction, state="failed", problem=problem)
        log.warning("extraction lost its jobs, enqueued again", dataset=extraction.dataset)
        enqueue_first(queue, extraction)
        return extraction
