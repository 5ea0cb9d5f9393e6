"""Networks that learn from all faces, and the honest judgement of them.

Networks that have seen every face leave none to judge them by, so the way of training is judged: once for
each left-out fold, on all other faces, without a validation part, for as many epochs as were best with one.
Of the left-out fold neither the networks nor that number of epochs know anything.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from agegender.files import write_json, write_safetensors
from safetensors.numpy import load as load_safetensors

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.evaluation.tensorboard import write_events
from trainer.experiments.ensemble import final_networks
from trainer.experiments.experiment import Experiment
from trainer.experiments.faces import labelled
from trainer.experiments.fold import write_out_of_fold
from trainer.experiments.head_start import read_head_start
from trainer.experiments.progress import AttemptProgress
from trainer.experiments.store import BANK, CHECKPOINT, METRICS, fold_dir, read_optional, refit_dir
from trainer.training.config import EpochReport, TrainingOptions
from trainer.training.device import TrainingDevice
from trainer.training.train import TrainedBank, train_without_validation

_FINAL_SEED = 1_000_000  # in place of a fold's number
Tell = Callable[[EpochReport], None]


def run_refit(
    data_dir: Path,
    experiment: Experiment,
    faces: EmbeddingSet,
    fold: int,
    tell: Tell,
    machine: TrainingDevice,
) -> None:
    """Train on all faces but those of one fold, and predict these; metrics.json says that all is there.

    The fold itself was trained before. tell, errors : as of `run_fold`.
    """
    options, chosen = experiment.options, labelled(faces, experiment.options)
    bank = _trained(data_dir, experiment, options, chosen, fold, tell, machine)
    test = np.flatnonzero(chosen.fold == fold)
    directory = refit_dir(data_dir, experiment.id, fold)
    write_out_of_fold(directory, bank, options, chosen.rows(test), test)
    write_json(directory / METRICS, {"fold": fold, "best_epochs": bank.best_epochs, "curve": bank.curve})
    (directory / CHECKPOINT).unlink(missing_ok=True)


def run_final(
    data_dir: Path, experiment: Experiment, faces: EmbeddingSet, tell: Tell, machine: TrainingDevice
) -> None:
    """Train on all faces as many networks as would be served of the folds' banks; ends with the bank's file.

    tell, errors : as of `run_fold`.
    """
    first = (fold_dir(data_dir, experiment.id, experiment.folds[0]) / BANK).read_bytes()
    networks = final_networks(load_safetensors(first), experiment.options, len(experiment.folds))
    options = experiment.options.model_copy(update={"seeds": networks})
    bank = _trained(data_dir, experiment, options, labelled(faces, options), None, tell, machine)
    write_safetensors(refit_dir(data_dir, experiment.id, None) / BANK, bank.tensors)


def best_epoch(data_dir: Path, experiment: Experiment, folds: list[int]) -> int:
    """Median over the networks of these folds; early stopping found each."""
    metrics = [read_optional(fold_dir(data_dir, experiment.id, fold) / METRICS) for fold in folds]
    return max(1, round(float(np.median([epoch for one in metrics for epoch in one["best_epochs"]]))))


def _trained(
    data_dir: Path,
    experiment: Experiment,
    options: TrainingOptions,
    faces: EmbeddingSet,
    left_out: int | None,
    tell: Tell,
    machine: TrainingDevice,
) -> TrainedBank:
    directory = refit_dir(data_dir, experiment.id, left_out)
    directory.mkdir(parents=True, exist_ok=True)
    progress = AttemptProgress(directory)
    start = read_head_start(data_dir, experiment.start_from, options.seeds)
    if left_out is None:
        train, epochs, seed = faces, best_epoch(data_dir, experiment, experiment.folds), _FINAL_SEED
    else:
        train, epochs = faces.rows(faces.fold != left_out), best_epoch(data_dir, experiment, [left_out])
        seed = left_out
    checkpoint = directory / CHECKPOINT
    bank = train_without_validation(
        train, epochs, options, seed, checkpoint, progress.noting(tell), machine, start
    )
    progress.require_newest()
    write_events(directory, {"best_epochs": bank.best_epochs, "curve": bank.curve, "splits": {}})
    return bank
