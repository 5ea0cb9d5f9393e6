"""The queue jobs of an experiment. Their arguments are names; the truth lies on the volume."""

import structlog
import torch
from agegender.errors import Problem
from agegender.files import write_json
from agegender.volume import volume_problem

from trainer.experiments.experiment import Experiment
from trainer.experiments.faces import load_faces
from trainer.experiments.fold import run_fold
from trainer.experiments.progress import Superseded
from trainer.experiments.schedule import reconcile
from trainer.experiments.store import FAILURE, METRICS, experiment_dir, fold_dir, load_experiment
from trainer.queues import connect, job_queue
from trainer.reports.write import write_reports
from trainer.settings import TrainerSettings
from trainer.training.train import EpochReport

log = structlog.get_logger(__name__)

_LOOK_EVERY = 5  # epochs, for a cancellation


class Cancelled(Exception):
    """The experiment was cancelled while this job ran."""


def train_fold(experiment_id: str, fold: int) -> None:
    """Train one left-out fold, unless it is done; then see to what follows."""
    settings = TrainerSettings()
    experiment = _wanted(settings, experiment_id)
    if experiment is None:
        return
    directory = fold_dir(settings.data_dir, experiment_id, fold)
    if not (directory / METRICS).exists():
        # One thread gives the same numbers on every machine; more workers use more CPUs.
        torch.set_num_threads(settings.threads)
        torch.use_deterministic_algorithms(True)

        def look(report: EpochReport) -> None:
            if report.epoch % _LOOK_EVERY == 0 and _wanted(settings, experiment_id) is None:
                raise Cancelled

        try:
            faces = load_faces(settings.data_dir, experiment.datasets, experiment.space, experiment.variant)
            run_fold(settings.data_dir, experiment, faces, fold, look)
        except (Cancelled, Superseded) as reason:
            log.info("fold given up", experiment=experiment_id, fold=fold, reason=type(reason).__name__)
            return
        except Exception as error:  # told to the user, who may cure it (such as a missing file) and resume
            if _may_pass(error):
                return
            log.error("fold failed", experiment=experiment_id, fold=fold, exc_info=error)
            write_json(directory / FAILURE, {"detail": _told(error)})
    reconcile(settings.data_dir, job_queue(connect(settings)), experiment)


def write_report(experiment_id: str) -> None:
    """Gather the folds into the report."""
    settings = TrainerSettings()
    experiment = _wanted(settings, experiment_id)
    if experiment is None:
        return
    try:
        write_reports(settings.data_dir, experiment)
    except Exception as error:
        if _may_pass(error):
            return
        log.error("report failed", experiment=experiment_id, exc_info=error)
        directory = experiment_dir(settings.data_dir, experiment_id)
        write_json(directory / FAILURE, {"detail": f"the report failed: {_told(error)}"})


def _may_pass(error: Exception) -> bool:
    """Whether it is the volume's fault: then the job is enqueued again once that can be written."""
    if not isinstance(error, OSError) or volume_problem(error) is None:
        return False
    log.warning("job given up until the volume can be written", reason=str(error))
    return True


def _told(error: Exception) -> str:
    return error.detail if isinstance(error, Problem) else f"{type(error).__name__}: {error}"


def _wanted(settings: TrainerSettings, experiment_id: str) -> Experiment | None:
    try:
        experiment = load_experiment(settings.data_dir, experiment_id)
    except Problem:
        return None  # deleted
    return None if experiment.cancelled else experiment
