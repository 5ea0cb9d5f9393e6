"""Keep the queue in step with the files: what is not done and has no living job gets one.

Called after every change and every few seconds, by the API and at the end of each job, so an experiment goes
on whatever was killed or lost: a worker, the API, Redis with or without its data. A job that runs twice does
no harm: it writes the same numbers to the same names.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job

from trainer.experiments.experiment import Experiment
from trainer.experiments.store import FAILURE, METRICS, REPORT, experiment_dir, experiments, fold_dir

log = structlog.get_logger(__name__)

FOLD_SECONDS, REPORT_SECONDS = 24 * 3600, 3600
# A living worker renews its job's heartbeat every `worker.HEARTBEAT_SECONDS`.
DEAD_AFTER = timedelta(seconds=30)
_KEPT_SECONDS = 3600


def reconcile_all(data_dir: Path, queue: Queue) -> None:
    for experiment in experiments(data_dir):
        reconcile(data_dir, queue, experiment)


def reconcile(data_dir: Path, queue: Queue, experiment: Experiment) -> None:
    """Enqueue the experiment's missing jobs: its folds, then its report."""
    directory = experiment_dir(data_dir, experiment.id)
    if experiment.cancelled or (directory / REPORT).exists() or (directory / FAILURE).exists():
        return
    waiting = False
    for fold in experiment.folds:
        own = fold_dir(data_dir, experiment.id, fold)
        if (own / METRICS).exists():
            continue
        waiting = True
        if not (own / FAILURE).exists():
            function = "trainer.jobs.train.train_fold"
            _ensure(queue, _fold_job(experiment, fold), function, [experiment.id, fold], FOLD_SECONDS)
    if not waiting:
        function = "trainer.jobs.train.write_report"
        _ensure(queue, f"{experiment.id}-report", function, [experiment.id], REPORT_SECONDS)


def cancel_jobs(queue: Queue, experiment: Experiment) -> None:
    """Take waiting jobs from the queue; a running one sees the cancellation at its next epoch."""
    for job_id in (*(_fold_job(experiment, fold) for fold in experiment.folds), f"{experiment.id}-report"):
        job = _job(queue, job_id)
        if job is not None and not job.is_started:
            job.delete()


def _fold_job(experiment: Experiment, fold: int) -> str:
    return f"{experiment.id}-fold-{fold}"


def _ensure(queue: Queue, job_id: str, function: str, arguments: list[str | int], seconds: int) -> None:
    job = _job(queue, job_id)
    if job is not None:
        if _is_alive(queue, job):
            return
        log.warning("job lost its worker, enqueued again", job=job_id, status=str(job.get_status()))
        job.delete()
    queue.enqueue_call(
        function,
        args=tuple(arguments),
        job_id=job_id,
        timeout=seconds,
        result_ttl=0,
        failure_ttl=_KEPT_SECONDS,
        description=job_id,
    )


def _job(queue: Queue, job_id: str) -> Job | None:
    try:
        return Job.fetch(job_id, connection=queue.connection, serializer=queue.serializer)
    except NoSuchJobError:
        return None


def _is_alive(queue: Queue, job: Job) -> bool:
    if job.is_queued:
        return job.id in queue.get_job_ids()
    if job.is_started:
        beat = job.last_heartbeat
        return beat is not None and datetime.now(UTC) - beat.replace(tzinfo=UTC) < DEAD_AFTER
    return False
