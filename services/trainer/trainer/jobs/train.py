"""The queue jobs that train for an experiment. Their arguments are names; the truth lies on the volume."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from agegender.errors import Problem

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.experiments.experiment import Experiment
from trainer.experiments.faces import load_faces
from trainer.experiments.fold import run_fold
from trainer.experiments.refit import run_refit
from trainer.experiments.schedule import reconcile
from trainer.experiments.store import METRICS, fold_dir, load_experiment, merged_subjects, refit_dir
from trainer.jobs.interruptions import attempt, noting_failure, raising_where_unwanted
from trainer.queues import connect, job_queue
from trainer.settings import TrainerSettings
from trainer.training.config import EpochReport
from trainer.training.device import TrainingDevice, prepare_device


class Work(Protocol):
    """Training that ends with METRICS in its folder."""

    def __call__(
        self,
        data_dir: Path,
        experiment: Experiment,
        faces: EmbeddingSet,
        *,
        tell: Callable[[EpochReport], None],
        machine: TrainingDevice,
    ) -> None: ...


def train_fold(experiment_id: str, fold: int) -> None:
    """Train one left-out fold, unless it is done; then see to what follows."""
    data_dir = TrainerSettings().data_dir
    directory = fold_dir(data_dir, experiment_id, fold)
    train(directory, partial(wanted_experiment, data_dir, experiment_id), partial(run_fold, fold=fold))


def refit_fold(experiment_id: str, fold: int) -> None:
    """The same without a validation part, for the comparison with it."""
    data_dir = TrainerSettings().data_dir
    directory = refit_dir(data_dir, experiment_id, fold)
    train(directory, partial(wanted_refit, data_dir, experiment_id), partial(run_refit, fold=fold))


def train(directory: Path, wanted: Callable[[], Experiment | None], work: Work) -> None:
    """Do the work of `directory`, unless it is done or not wanted; then see to what follows."""
    settings = TrainerSettings()
    experiment = wanted()
    if experiment is None:
        return
    data_dir = settings.data_dir

    def run() -> None:
        machine = prepare_device(settings.device, settings.amp, settings.threads)
        merged = merged_subjects(data_dir, experiment)
        faces = load_faces(data_dir, experiment.datasets, experiment.space, experiment.variant, merged)
        work(data_dir, experiment, faces, tell=raising_where_unwanted(wanted), machine=machine)

    of = str(directory.relative_to(data_dir))
    if (directory / METRICS).exists() or attempt(run, noting_failure(directory), of=of).is_over:
        reconcile(data_dir, job_queue(connect(settings), settings), experiment)


def wanted_experiment(data_dir: Path, experiment_id: str) -> Experiment | None:
    """None where it was cancelled or deleted."""
    try:
        experiment = load_experiment(data_dir, experiment_id)
    except Problem:
        return None  # deleted
    return None if experiment.cancelled else experiment


def wanted_refit(data_dir: Path, experiment_id: str) -> Experiment | None:
    """None where its refits are not wanted any more."""
    experiment = wanted_experiment(data_dir, experiment_id)
    return experiment if experiment is not None and experiment.refit else None
