"""The queue jobs of an experiment. Their arguments are names; the truth lies on the volume."""

import structlog
from agegender.errors import Problem
from agegender.files import write_json

from trainer.experiments.experiment import Experiment
from trainer.experiments.faces import load_faces
from trainer.experiments.fold import run_fold
from trainer.experiments.progress import Superseded
from trainer.experiments.schedule import reconcile
from trainer.experiments.store import FAILURE, METRICS, fold_dir, load_experiment
from trainer.jobs.interruptions import Cancelled, may_pass, told
from trainer.queues import connect, job_queue
from trainer.settings import TrainerSettings
from trainer.training.machine import prepared_machine
from trainer.training.train import EpochReport

log = structlog.get_logger(__name__)

_LOOK_EVERY = 5  # epochs, for a cancellation


def train_fold(experiment_id: str, fold: int) -> None:
    """Train one left-out fold, unless it is done; then see to what follows."""
    settings = TrainerSettings()
    experiment = wanted_experiment(settings, experiment_id)
    if experiment is None:
        return
    directory = fold_dir(settings.data_dir, experiment_id, fold)
    if not (directory / METRICS).exists():

        def look(report: EpochReport) -> None:
            if report.epoch % _LOOK_EVERY == 0 and wanted_experiment(settings, experiment_id) is None:
                raise Cancelled

        try:
            machine = prepared_machine(settings.device, settings.amp, settings.threads)
            faces = load_faces(settings.data_dir, experiment.datasets, experiment.space, experiment.variant)
            run_fold(settings.data_dir, experiment, faces, fold, look, machine)
        except (Cancelled, Superseded) as reason:
            log.info("fold given up", experiment=experiment_id, fold=fold, reason=type(reason).__name__)
            return
        except Exception as error:  # told to the user, who may cure it (such as a missing file) and resume
            if may_pass(error):
                return
            log.error("fold failed", experiment=experiment_id, fold=fold, exc_info=error)
            write_json(directory / FAILURE, {"detail": told(error)})
    reconcile(settings.data_dir, job_queue(connect(settings)), experiment)


def wanted_experiment(settings: TrainerSettings, experiment_id: str) -> Experiment | None:
    """None where it was cancelled or deleted."""
    try:
        experiment = load_experiment(settings.data_dir, experiment_id)
    except Problem:
        return None  # deleted
    return None if experiment.cancelled else experiment
