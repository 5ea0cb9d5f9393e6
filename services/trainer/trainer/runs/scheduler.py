"""Keep the queue in step with the files: each step that is not done and has no living job gets a job.

This is the only module that enqueues. It is called after every change and every few seconds, by the API and
at the end of each job, so a run continues whatever was killed or lost: a worker, the API, Redis with or
without its data. A job that runs twice does no harm: it writes the same numbers to the same files, and the
older of two attempts gives way (`trainer.runs.attempt`).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from agegender.files import why_not_writable
from rq.job import Job

from trainer.runs.queue import (
    JobQueue,
    connect,
    delete_job,
    drop_waiting_job,
    fetch_job,
    give_up_dead_jobs,
    is_alive,
    job_queue,
)
from trainer.runs.run import Kind, R, S, Step
from trainer.runs.store import each
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)

_FAILED_JOB_SECONDS = 3600  # for which the queue keeps a failed job


async def keep_scheduling(settings: TrainerSettings, kinds: Sequence[Kind[Any, Any]]) -> None:
    """Enqueue, every few seconds, what Redis or a dead worker lost; return only when cancelled."""
    queue = job_queue(connect(settings), settings)
    tasks: dict[str, Callable[[], None]] = {
        "dead jobs": partial(give_up_dead_jobs, queue),
        **{kind.path: partial(schedule_all, kind, settings.data_dir, queue) for kind in kinds},
    }
    while True:
        if (reason := why_not_writable(settings.data_dir)) is None:
            for name, task in tasks.items():
                try:
                    await asyncio.to_thread(task)
                except Exception as error:  # Redis is down or the volume full: try again later
                    log.warning("queue and files not compared", of=name, error=str(error))
        else:  # a job would fail, and could not even store why
            log.warning("no jobs enqueued", reason=reason)
        await asyncio.sleep(settings.reconcile_seconds)


def schedule_all(kind: Kind[R, S], data_dir: Path, queue: JobQueue) -> None:
    """Schedule every run of a kind that can be read. Raises `RedisError`."""
    for _ in each(kind, data_dir, partial(schedule, kind, data_dir, queue)):
        pass


def schedule(kind: Kind[R, S], data_dir: Path, queue: JobQueue, run: R) -> None:
    """Enqueue the steps that a run needs now."""
    if not run.cancelled and (steps := list(kind.steps(data_dir, run))):
        enqueue_steps(queue, run.id, steps)


def cancel(kind: Kind[R, S], data_dir: Path, queue: JobQueue, name: str) -> R:
    """Cancel an active run and return its record; a run that is over stays as it is.

    Waiting jobs leave the queue; a running one stops at its next check.
    """
    steps: list[Step] = []

    def unless_over(run: R) -> R:
        if not kind.is_active(kind.status(data_dir, run)):
            return run
        steps.extend(kind.steps(data_dir, run))
        return kind.cancelled(data_dir, run)

    cancelled = kind.change(data_dir, name, unless_over)
    for step in steps:
        drop_waiting_job(queue, step.job_id)
    return cancelled


def enqueue_steps(queue: JobQueue, run_id: str, steps: Iterable[Step]) -> None:
    """Enqueue steps unless their jobs wait or run; replace a job that failed or lost its worker.

    One caller at a time handles a run. A caller that dies delays the others for twice `presumed_dead`.
    """
    seconds = 2 * queue.presumed_dead.total_seconds()
    with queue.connection.lock(f"trainer:reconcile:{run_id}", timeout=seconds):
        waiting = set(queue.get_job_ids())
        for step in steps:
            enqueue_step(queue, step, waiting)


def enqueue_step(queue: JobQueue, step: Step, waiting: set[str] | None = None) -> None:
    """Enqueue one step as `enqueue_steps` does, without a lock.

    waiting : ids of the jobs that wait, if the caller has them already.
    """
    waiting = set(queue.get_job_ids()) if waiting is None else waiting
    job = fetch_job(queue, step.job_id)
    if job is not None:
        outdated = job.id in waiting and not _calls(job, step)
        if not outdated and is_alive(queue, job, waiting):
            return
        reason = "it names a function of another release" if outdated else "it lost its worker"
        log.warning("job replaced", job=step.job_id, reason=reason, status=str(job.get_status(refresh=False)))
        delete_job(queue, job)
    queue.connection.delete(queue.intermediate_queue.get_first_seen_key(step.job_id))
    queue.enqueue_call(
        step.job,
        args=step.arguments,
        job_id=step.job_id,
        timeout=step.seconds,
        result_ttl=0,
        failure_ttl=_FAILED_JOB_SECONDS,
        description=step.job_id,
        at_front=step.first,
    )


def _calls(job: Job, step: Step) -> bool:
    return bool(job.func_name == f"{step.job.__module__}.{step.job.__qualname__}")
