"""The queue jobs that judge trials. Their arguments are names; the truth lies on the volume."""

from functools import partial
from pathlib import Path

from agegender.errors import Problem

from trainer.experiments.faces import load_faces
from trainer.jobs.interruptions import attempt, raising_where_unwanted
from trainer.queues import connect, job_queue
from trainer.searches.schedule import reconcile_search
from trainer.searches.search import Search
from trainer.searches.store import RESULT, load_search, merged_search_subjects, trial_dir
from trainer.searches.trial import fail_trial, run_trial
from trainer.settings import TrainerSettings
from trainer.training.device import prepare_device


def judge_trial(search_id: str, number: int) -> None:
    """Judge one trial, unless it is over; then see to what follows."""
    settings = TrainerSettings()
    data_dir = settings.data_dir
    wanted = partial(wanted_search, data_dir, search_id)
    search = wanted()
    if search is None:
        return

    def run() -> None:
        machine = prepare_device(settings.device, settings.amp, settings.threads)
        merged = merged_search_subjects(data_dir, search)
        faces = load_faces(data_dir, search.datasets, search.space, search.variant, merged)
        run_trial(data_dir, search, number, faces, raising_where_unwanted(wanted), machine)

    fail = partial(fail_trial, data_dir, search, number)
    over = (trial_dir(data_dir, search_id, number) / RESULT).exists()
    if over or attempt(run, fail, search=search_id, trial=number).is_over:
        reconcile_search(data_dir, job_queue(connect(settings), settings), search)


def wanted_search(data_dir: Path, search_id: str) -> Search | None:
    """None where it was cancelled or deleted."""
    try:
        search = load_search(data_dir, search_id)
    except Problem:
        return None  # deleted
    return None if search.cancelled else search
