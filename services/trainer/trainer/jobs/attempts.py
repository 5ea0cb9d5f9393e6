"""Attempts of an extraction, as its jobs see them: is mine still wanted, what follows, what went wrong."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import structlog
from agegender.errors import Problem
from rq import Queue, Retry
from rq.job import Job, JobStatus

from trainer.datasets.original import FORMAT as ORIGINAL
from trainer.extraction.outcome import Outcome
from trainer.extraction.state import ACTIVE, Extraction, read_state, write_state

log = structlog.get_logger(__name__)

_RETRIES = 5  # a worker that dies takes its job with it; the next goes on from what is on disk
_KEPT_SECONDS = 24 * 3600
_PLAN_SECONDS = 3600
_IMPORT_SECONDS = 6 * 3600
ENDING = ("plan", "merge", "import")  # the parts of an attempt that end it, or enqueue what does
_OVER = frozenset({JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED})

_OUTCOME = tuple(field.name for field in fields(Outcome))


def current(data_dir: Path, dataset: str, space_id: str, variant: str, attempt: str) -> Extraction | None:
    """The extraction, None where this attempt of it is over or was cancelled."""
    extraction = read_state(data_dir, dataset, space_id, variant)
    if extraction is None or extraction.attempt_id != attempt or extraction.state not in ACTIVE:
        return None
    return extraction


def fail(data_dir: Path, extraction: Extraction, problem: Problem) -> None:
    """End an extraction with a problem that trying again does not cure."""
    log.warning(
        "extraction failed", dataset=extraction.dataset, detail=problem.detail, summary=extraction.summary
    )
    outcome = {name: problem.extra[name] for name in _OUTCOME if name in problem.extra}
    write_state(data_dir, extraction, state="failed", problem=problem.document(), **outcome)


def enqueue_first(queue: Queue, extraction: Extraction) -> None:
    """Enqueue the job with which an attempt begins."""
    if extraction.kind == ORIGINAL and not extraction.regroup:
        function = "trainer.jobs.import_original.import_original_faces"
        enqueue_part(queue, function, extraction, "import", _IMPORT_SECONDS)
    elif extraction.regroup:
        enqueue_part(queue, "trainer.jobs.merge.regroup_faces", extraction, "merge", _IMPORT_SECONDS)
    else:
        enqueue_part(queue, "trainer.jobs.extract.plan_extraction", extraction, "plan", _PLAN_SECONDS)


def enqueue_part(
    queue: Queue,
    function: str,
    extraction: Extraction,
    part: str,
    seconds: int,
    *arguments: int,
    **options: Any,
) -> Job:
    """Enqueue a job of an attempt, unless it is known already: the job that enqueues may run twice.

    function : by name, so that neither the API nor a shard's job imports what only another job needs.
    """
    job_id = extraction.job_id(part)
    if Job.exists(job_id, connection=queue.connection):
        return Job.fetch(job_id, connection=queue.connection, serializer=queue.serializer)
    return queue.enqueue_call(
        function,
        args=(extraction.dataset, extraction.space.id, extraction.variant, extraction.attempt_id, *arguments),
        job_id=job_id,
        timeout=seconds,
        result_ttl=_KEPT_SECONDS,
        failure_ttl=_KEPT_SECONDS,
        retry=Retry(max=_RETRIES),
        description=f"{extraction.dataset}/{extraction.variant} in {extraction.space.id}: {part}",
        **options,
    )


def has_jobs(queue: Queue, extraction: Extraction) -> bool:
    """Whether a job that will end the attempt is still to come; not so if Redis lost its data."""
    jobs = Job.fetch_many(
        [extraction.job_id(part) for part in ENDING],
        connection=queue.connection,
        serializer=queue.serializer,
    )
    # States as they were fetched together: the plan may end, and the merge begin to exist, after that.
    return any(job is not None and job.get_status(refresh=False) not in _OVER for job in jobs)
