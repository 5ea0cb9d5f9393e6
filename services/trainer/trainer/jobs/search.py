"""The queue jobs that judge trials. Their arguments are names; the truth lies on the volume."""

import structlog
from agegender.errors import Problem

from trainer.experiments.faces import load_faces
from trainer.experiments.progress import Superseded
from trainer.jobs.interruptions import Cancelled, may_pass, told
from trainer.queues import connect, job_queue
from trainer.searches.schedule import reconcile_search
from trainer.searches.search import Search
from trainer.searches.store import RESULT, load_search, trial_dir
from trainer.searches.trial import fail_trial, run_trial
from trainer.settings import TrainerSettings
from trainer.training.machine import prepared_machine
from trainer.training.train import EpochReport

log = structlog.get_logger(__name__)

_LOOK_EVERY = 5  # epochs, for a cancellation


def judge_trial(search_id: str, number: int) -> None:
    """Judge one trial, unless it is over; then see to what follows."""
    settings = TrainerSettings()
    search = wanted_search(settings, search_id)
    if search is None:
        return
    if not (trial_dir(settings.data_dir, search_id, number) / RESULT).exists():

        def look(report: EpochReport) -> None:
            if report.epoch % _LOOK_EVERY == 0 and wanted_search(settings, search_id) is None:
                raise Cancelled

        try:
            machine = prepared_machine(settings.device, settings.amp, settings.threads)
            faces = load_faces(settings.data_dir, search.datasets, search.space, search.variant)
            run_trial(settings.data_dir, search, number, faces, look, machine)
        except (Cancelled, Superseded) as reason:
            log.info("trial given up", search=search_id, trial=number, reason=type(reason).__name__)
            return
        except Exception as error:  # told to the user; the other trials go on
            if may_pass(error):
                return
            log.error("trial failed", search=search_id, trial=number, exc_info=error)
            fail_trial(settings.data_dir, search, number, told(error))
    reconcile_search(settings.data_dir, job_queue(connect(settings)), search)


def wanted_search(settings: TrainerSettings, search_id: str) -> Search | None:
    """None where it was cancelled or deleted."""
    try:
        search = load_search(settings.data_dir, search_id)
    except Problem:
        return None  # deleted
    return None if search.cancelled else search
