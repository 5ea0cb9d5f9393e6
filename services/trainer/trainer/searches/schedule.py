"""Keep the queue in step with the files of searches, as it is kept for experiments."""

from collections.abc import Iterator
from pathlib import Path

from trainer.experiments.schedule import FOLD_SECONDS, REPORT_SECONDS
from trainer.experiments.store import FAILURE, REPORT
from trainer.queues import JobQueue, WantedJob, drop_waiting_job, ensure_jobs
from trainer.records import skipping_damage
from trainer.searches.search import Search
from trainer.searches.store import RESULT, search_dir, searches, trial_dir

_JUDGE, _REPORT = "trainer.jobs.search.judge_trial", "trainer.jobs.report.write_search_report"


def reconcile_searches(data_dir: Path, queue: JobQueue) -> None:
    """Reconcile every search that can be read. Raises `RedisError`."""
    for search in searches(data_dir):
        with skipping_damage(search_dir(data_dir, search.id)):
            reconcile_search(data_dir, queue, search)


def reconcile_search(data_dir: Path, queue: JobQueue, search: Search) -> None:
    """Enqueue the search's missing jobs: its trials, then its report."""
    directory = search_dir(data_dir, search.id)
    if search.cancelled or (directory / REPORT).exists() or (directory / FAILURE).exists():
        return
    ensure_jobs(queue, search.id, _missing_jobs(data_dir, search))


def cancel_search_jobs(queue: JobQueue, search: Search) -> None:
    """Take waiting jobs from the queue; a running one sees the cancellation within a few epochs."""
    for number in range(search.trials):
        drop_waiting_job(queue, _trial_job(search, number).id)
    drop_waiting_job(queue, _report_job(search).id)


def _missing_jobs(data_dir: Path, search: Search) -> Iterator[WantedJob]:
    missing = [
        number
        for number in range(search.trials)
        if not (trial_dir(data_dir, search.id, number) / RESULT).exists()
    ]
    yield from (_trial_job(search, number) for number in missing)
    if not missing:
        yield _report_job(search)


def _trial_job(search: Search, number: int) -> WantedJob:
    return WantedJob(f"{search.id}-trial-{number}", _JUDGE, [search.id, number], FOLD_SECONDS)


def _report_job(search: Search) -> WantedJob:
    return WantedJob(f"{search.id}-report", _REPORT, [search.id], REPORT_SECONDS)
