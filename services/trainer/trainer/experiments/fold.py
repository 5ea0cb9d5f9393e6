"""Train and evaluate the ensemble of a held-out fold, and the ensembles that learn from more faces.

An ensemble that has seen every face leaves none to evaluate it on. So its recipe is evaluated instead: once
per held-out fold, trained on all other faces, without a validation split, for as many epochs as were best
with one. Neither the weights nor that number of epochs depend on the held-out fold.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.files import write_json, write_npz, write_safetensors
from agegender.heads.head import Task, over_years
from safetensors.numpy import load as load_safetensors
from torch.utils.tensorboard import SummaryWriter

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.folds import groups_of, strata_of, validation_note, validation_split
from trainer.evaluation import age_metrics, gender_metrics, member_probabilities
from trainer.experiments.experiment import (
    BANK,
    CHECKPOINT,
    METRICS,
    OUT_OF_FOLD,
    Experiment,
    fold_dir,
    refit_dir,
)
from trainer.experiments.experiment_data import labelled
from trainer.experiments.promote import ensemble_size
from trainer.experiments.warm_start import WEIGHTS, read_warm_start
from trainer.runs.attempt import Attempt
from trainer.runs.run import read_optional
from trainer.training.bank import TrainingDevice
from trainer.training.config import TrainingOptions
from trainer.training.train import TrainedBank, train_bank, train_without_validation

_FINAL_SEED = 1_000_000  # in place of a fold's number
EVENTS = "tensorboard"


@dataclass(frozen=True)
class FoldParts:
    """Three sets of faces that share no subject.

    test_rows, validation_rows : positions of these faces among the experiment's labelled faces.
    """

    train: EmbeddingSet
    validation: EmbeddingSet
    test: EmbeddingSet
    test_rows: npt.NDArray[np.int64]
    validation_rows: npt.NDArray[np.int64]


def split_faces(faces: EmbeddingSet, experiment: Experiment, fold: int) -> FoldParts:
    """Take the held-out fold as test set and a share of the other subjects as validation split."""
    selected = labelled(faces, experiment.options)
    test = np.flatnonzero(selected.fold == fold)
    rest = np.flatnonzero(selected.fold != fold)
    others = selected.rows(rest)
    validates = validation_split(
        strata_of(others.age_low, others.age_high, others.gender),
        groups_of(others.subject),
        experiment.options.validation,
        seed=experiment.options.seed + fold,
    )
    return FoldParts(
        others.rows(~validates), others.rows(validates), selected.rows(test), test, rest[validates]
    )


def run_fold(
    data_dir: Path,
    experiment: Experiment,
    faces: EmbeddingSet,
    fold: int,
    attempt: Attempt,
    device: TrainingDevice,
) -> None:
    """Train and evaluate the ensemble of a held-out fold; metrics.json, written last, marks it as done.

    Raises `GivenUp` if the attempt must stop.
    """
    directory = fold_dir(data_dir, experiment.id, fold)
    splits = split_faces(faces, experiment, fold)
    checkpoint = directory / CHECKPOINT
    options = experiment.options
    start = read_warm_start(data_dir, experiment.warm_start, options.seeds)
    bank = train_bank(
        splits.train, splits.validation, options, fold, checkpoint, attempt.report, device, start
    )
    attempt.check()
    write_bank(directory, bank)
    if fold == experiment.folds[0]:  # the only ones that a warm start reads, as large as all else
        write_safetensors(directory / WEIGHTS, bank.weights)
    write_out_of_fold(directory, bank, options, splits.test, splits.test_rows, splits.validation_rows)
    metrics = {
        "fold": fold,
        "faces": {name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
        "validation_note": validation_note(len(splits.validation), len(splits.train), options.validation),
        "best_epochs": bank.best_epochs,
        "curve": bank.curve,
        "splits": {
            name: _split_metrics(experiment, bank, getattr(splits, name))
            for name in ("train", "validation", "test")
        },
    }
    write_events(directory, metrics)
    write_json(directory / METRICS, metrics)
    checkpoint.unlink(missing_ok=True)


def _split_metrics(experiment: Experiment, bank: TrainedBank, faces: EmbeddingSet) -> list[dict[str, Any]]:
    """Return the metrics of each member alone."""
    predicted = member_probabilities(bank.tensors, experiment.options, faces)
    classes = dict(experiment.options.tasks)
    members: list[dict[str, Any]] = []
    for member in range(experiment.options.seeds):
        own: dict[str, Any] = {}
        if Task.AGE in predicted:
            own["age"] = age_metrics(over_years(predicted[Task.AGE][member], classes[Task.AGE]), faces)
        if Task.GENDER in predicted:
            own["gender"] = gender_metrics(predicted[Task.GENDER][member], faces)
        members.append(own)
    return members


def write_bank(directory: Path, bank: TrainedBank) -> None:
    """Write the networks that a promotion serves, as float16, because a head's file has no other numbers."""
    halves = {name: tensor.astype(np.float16) for name, tensor in bank.tensors.items()}
    write_safetensors(directory / BANK, halves)


def write_out_of_fold(
    directory: Path,
    bank: TrainedBank,
    options: TrainingOptions,
    test: EmbeddingSet,
    rows: npt.NDArray[np.int64],
    validation_rows: npt.NDArray[np.int64],
) -> None:
    """Write the members' mean probabilities of the held-out faces.

    rows, validation_rows : positions, among the experiment's labelled faces, of the held-out faces and of
        those of the validation split.
    """
    predicted = member_probabilities(bank.tensors, options, test)
    arrays: dict[str, npt.NDArray[Any]] = {"row": rows, "validation": validation_rows}
    arrays |= {task.value: members.mean(axis=0) for task, members in predicted.items()}
    write_npz(directory / OUT_OF_FOLD, arrays)


def run_refit(
    data_dir: Path,
    experiment: Experiment,
    faces: EmbeddingSet,
    fold: int,
    attempt: Attempt,
    device: TrainingDevice,
) -> None:
    """Train on all faces but those of one fold, and predict these; metrics.json marks it as done.

    The fold itself must be trained. Raises `GivenUp` if the attempt must stop.
    """
    options, selected = experiment.options, labelled(faces, experiment.options)
    bank = _train_longer(data_dir, experiment, options, selected, fold, attempt, device)
    test = np.flatnonzero(selected.fold == fold)
    directory = refit_dir(data_dir, experiment.id, fold)
    write_out_of_fold(directory, bank, options, selected.rows(test), test, np.zeros(0, np.int64))
    write_json(directory / METRICS, {"fold": fold, "best_epochs": bank.best_epochs, "curve": bank.curve})
    (directory / CHECKPOINT).unlink(missing_ok=True)


def run_final(
    data_dir: Path, experiment: Experiment, faces: EmbeddingSet, attempt: Attempt, device: TrainingDevice
) -> None:
    """Train on all faces as many members as the folds' ensembles would serve, and write them.

    Raises `GivenUp` if the attempt must stop.
    """
    first = (fold_dir(data_dir, experiment.id, experiment.folds[0]) / BANK).read_bytes()
    members = ensemble_size(load_safetensors(first), experiment.options, len(experiment.folds))
    options = experiment.options.model_copy(update={"seeds": members})
    selected = labelled(faces, options)
    bank = _train_longer(data_dir, experiment, options, selected, None, attempt, device)
    write_bank(refit_dir(data_dir, experiment.id, None), bank)


def best_epoch(data_dir: Path, experiment: Experiment, folds: list[int]) -> int:
    """Return the median of the epochs at which early stopping found these folds' members to be best."""
    metrics = [read_optional(fold_dir(data_dir, experiment.id, fold) / METRICS) for fold in folds]
    return max(1, round(float(np.median([epoch for one in metrics for epoch in one["best_epochs"]]))))


def _train_longer(
    data_dir: Path,
    experiment: Experiment,
    options: TrainingOptions,
    faces: EmbeddingSet,
    held_out: int | None,
    attempt: Attempt,
    device: TrainingDevice,
) -> TrainedBank:
    """Train without a validation split, on all faces but those of `held_out`."""
    directory = refit_dir(data_dir, experiment.id, held_out)
    start = read_warm_start(data_dir, experiment.warm_start, options.seeds)
    if held_out is None:
        train, epochs, seed = faces, best_epoch(data_dir, experiment, experiment.folds), _FINAL_SEED
    else:
        train, epochs = faces.rows(faces.fold != held_out), best_epoch(data_dir, experiment, [held_out])
        seed = held_out
    checkpoint = directory / CHECKPOINT
    bank = train_without_validation(train, epochs, options, seed, checkpoint, attempt.report, device, start)
    attempt.check()
    write_events(directory, {"best_epochs": bank.best_epochs, "curve": bank.curve, "splits": {}})
    return bank


def write_events(fold_dir: Path, metrics: dict[str, Any]) -> None:
    """Replace `fold_dir/tensorboard/` by the content of metrics.json.

    It has the loss of each epoch, and the members' mean metrics on each split at the mean best epoch.
    """
    shutil.rmtree(fold_dir / EVENTS, ignore_errors=True)
    best = round(float(np.mean(metrics["best_epochs"])))
    with SummaryWriter(str(fold_dir / EVENTS)) as writer:
        for epoch, (train, validation) in enumerate(metrics["curve"], 1):
            writer.add_scalar("loss/train", train, epoch)
            if validation is not None:
                writer.add_scalar("loss/validation", validation, epoch)
        for split, members in metrics["splits"].items():
            for task, metrics_of_task in members[0].items():
                for name in metrics_of_task:
                    values = [member[task][name] for member in members if member[task][name] is not None]
                    if values and name not in ("faces", "floor"):
                        writer.add_scalar(f"{task} {name}/{split}", float(np.mean(values)), best)
