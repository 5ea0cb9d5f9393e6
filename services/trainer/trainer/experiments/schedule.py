"""Keep the queue in step with the files: what is not done and has no living job gets one.

Called after every change and every few seconds, by the API and at the end of each job, so an experiment goes
on whatever was killed or lost: a worker, the API, Redis with or without its data. A job that runs twice does
no harm: it writes the same numbers to the same names, and the older of two gives way (`progress`).
"""

from collections.abc import Iterator
from pathlib import Path

from trainer.experiments.experiment import Experiment
from trainer.experiments.promote import awaits_promotion
from trainer.experiments.store import (
    FAILURE,
    METRICS,
    REPORT,
    experiment_dir,
    experiments,
    fold_dir,
    is_finished,
    refit_dir,
)
from trainer.queues import JobQueue, WantedJob, drop_waiting_job, ensure_jobs
from trainer.records import skipping_damage

FOLD_SECONDS, REPORT_SECONDS = 24 * 3600, 3600


def reconcile_all(data_dir: Path, queue: JobQueue) -> None:
    """Reconcile every experiment that can be read. Raises `RedisError`."""
    for experiment in experiments(data_dir):
        with skipping_damage(experiment_dir(data_dir, experiment.id)):
            reconcile(data_dir, queue, experiment)


def reconcile(data_dir: Path, queue: JobQueue, experiment: Experiment) -> None:
    """Enqueue the experiment's missing jobs: its folds, its report, and its refits where they are wanted."""
    failed = (experiment_dir(data_dir, experiment.id) / FAILURE).exists()
    if experiment.cancelled or failed:
        return
    if not is_finished(data_dir, experiment):
        ensure_jobs(queue, experiment.id, _missing_jobs(data_dir, experiment))
    elif awaits_promotion(data_dir, experiment):
        ensure_jobs(queue, experiment.id, [_promotion_job(experiment)])


def cancel_jobs(queue: JobQueue, experiment: Experiment) -> None:
    """Take waiting jobs from the queue; a running one sees the cancellation within a few epochs."""
    jobs = [_fold_job(experiment, fold) for fold in experiment.folds]
    jobs += [_refit_job(experiment, fold) for fold in experiment.refits]
    for job in (*jobs, _report_job(experiment), _promotion_job(experiment)):
        drop_waiting_job(queue, job.id)


def _missing_jobs(data_dir: Path, experiment: Experiment) -> Iterator[WantedJob]:
    folds = {fold: fold_dir(data_dir, experiment.id, fold) for fold in experiment.folds}
    yield from (_fold_job(experiment, fold) for fold, directory in folds.items() if _is_open(directory))
    trained = [fold for fold, directory in folds.items() if (directory / METRICS).exists()]
    reported = (experiment_dir(data_dir, experiment.id) / REPORT).exists()
    if len(trained) == len(folds) and not reported:
        yield _report_job(experiment)
    if not experiment.refit:
        return
    refits = {fold: refit_dir(data_dir, experiment.id, fold) for fold in trained}
    yield from (_refit_job(experiment, fold) for fold, directory in refits.items() if _is_open(directory))
    compared = len(trained) == len(folds) and all((path / METRICS).exists() for path in refits.values())
    # It renews the report, so that comes first.
    if compared and reported and _is_open(refit_dir(data_dir, experiment.id, None)):
        yield _refit_job(experiment, None)


def _is_open(directory: Path) -> bool:
    return not (directory / METRICS).exists() and not (directory / FAILURE).exists()


def _fold_job(experiment: Experiment, fold: int) -> WantedJob:
    function = "trainer.jobs.train.train_fold"
    return WantedJob(f"{experiment.id}-fold-{fold}", function, [experiment.id, fold], FOLD_SECONDS)


def _refit_job(experiment: Experiment, fold: int | None) -> WantedJob:
    if fold is None:
        final = "trainer.jobs.report.fit_final"
        return WantedJob(f"{experiment.id}-final", final, [experiment.id], FOLD_SECONDS)
    function = "trainer.jobs.train.refit_fold"
    return WantedJob(f"{experiment.id}-refit-{fold}", function, [experiment.id, fold], FOLD_SECONDS)


def _report_job(experiment: Experiment) -> WantedJob:
    """Seconds of work that somebody waits for: the refits of the first folds do not hold it up."""
    function = "trainer.jobs.report.write_report"
    return WantedJob(f"{experiment.id}-report", function, [experiment.id], REPORT_SECONDS, first=True)


def _promotion_job(experiment: Experiment) -> WantedJob:
    function = "trainer.jobs.promote.serve_better"
    return WantedJob(f"{experiment.id}-promote", function, [experiment.id], REPORT_SECONDS)
