"""Keep the queue in step with the files: what is not done and has no living job gets one.

Called after every change and every few seconds, by the API and at the end of each job, so an experiment goes
on whatever was killed or lost: a worker, the API, Redis with or without its data. A job that runs twice does
no harm: it writes the same numbers to the same names, and the older of two gives way (`progress`).
"""

from collections.abc import Iterator
from pathlib import Path

from rq import Queue

from trainer.experiments.experiment import Experiment
from trainer.experiments.store import FAILURE, METRICS, REPORT, experiment_dir, experiments, fold_dir
from trainer.queues import WantedJob, drop_waiting_job, ensure_jobs

FOLD_SECONDS, REPORT_SECONDS = 24 * 3600, 3600


def reconcile_all(data_dir: Path, queue: Queue) -> None:
    for experiment in experiments(data_dir):
        reconcile(data_dir, queue, experiment)


def reconcile(data_dir: Path, queue: Queue, experiment: Experiment) -> None:
    """Enqueue the experiment's missing jobs: its folds, then its report."""
    directory = experiment_dir(data_dir, experiment.id)
    if experiment.cancelled or (directory / REPORT).exists() or (directory / FAILURE).exists():
        return
    ensure_jobs(queue, experiment.id, _missing_jobs(data_dir, experiment))


def cancel_jobs(queue: Queue, experiment: Experiment) -> None:
    """Take waiting jobs from the queue; a running one sees the cancellation within a few epochs."""
    for job in (*(_fold_job(experiment, fold) for fold in experiment.folds), _report_job(experiment)):
        drop_waiting_job(queue, job.id)


def _missing_jobs(data_dir: Path, experiment: Experiment) -> Iterator[WantedJob]:
    unfinished = [
        fold for fold in experiment.folds if not (fold_dir(data_dir, experiment.id, fold) / METRICS).exists()
    ]
    for fold in unfinished:
        if not (fold_dir(data_dir, experiment.id, fold) / FAILURE).exists():
            yield _fold_job(experiment, fold)
    if not unfinished:
        yield _report_job(experiment)


def _fold_job(experiment: Experiment, fold: int) -> WantedJob:
    function = "trainer.jobs.train.train_fold"
    return WantedJob(f"{experiment.id}-fold-{fold}", function, [experiment.id, fold], FOLD_SECONDS)


def _report_job(experiment: Experiment) -> WantedJob:
    function = "trainer.jobs.report.write_report"
    return WantedJob(f"{experiment.id}-report", function, [experiment.id], REPORT_SECONDS)
