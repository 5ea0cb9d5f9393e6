"""Train the bank of one left-out fold and say what it makes of training, validation and test faces."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.files import write_json, write_npz, write_safetensors
from agegender.heads.head import Task, over_years

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.folds import groups_of, strata_of, validation_note, validation_split
from trainer.evaluation.metrics import age_metrics, gender_metrics
from trainer.evaluation.tensorboard import write_events
from trainer.experiments.experiment import Experiment
from trainer.experiments.faces import labelled
from trainer.experiments.head_start import WEIGHTS, read_head_start
from trainer.experiments.progress import AttemptProgress
from trainer.experiments.store import BANK, CHECKPOINT, METRICS, OUT_OF_FOLD, fold_dir
from trainer.training.config import EpochReport, TrainingOptions
from trainer.training.device import TrainingDevice
from trainer.training.predict import member_probabilities
from trainer.training.train import TrainedBank, train_bank


@dataclass(frozen=True)
class FoldParts:
    """Three sets of faces that share no subject."""

    train: EmbeddingSet
    validation: EmbeddingSet
    test: EmbeddingSet
    test_rows: npt.NDArray[np.int64]


def split_faces(faces: EmbeddingSet, experiment: Experiment, fold: int) -> FoldParts:
    """Test is the left-out fold; validation is taken from the others, subject by subject."""
    chosen = labelled(faces, experiment.options)
    test = np.flatnonzero(chosen.fold == fold)
    rest = np.flatnonzero(chosen.fold != fold)
    others = chosen.rows(rest)
    validates = validation_split(
        strata_of(others.age_low, others.age_high, others.gender),
        groups_of(others.subject),
        experiment.options.validation,
        seed=experiment.options.seed + fold,
    )
    return FoldParts(others.rows(~validates), others.rows(validates), chosen.rows(test), test)


def run_fold(
    data_dir: Path,
    experiment: Experiment,
    faces: EmbeddingSet,
    fold: int,
    tell: Callable[[EpochReport], None],
    machine: TrainingDevice,
) -> None:
    """Train, evaluate and write `folds/<fold>/`; metrics.json comes last and says that all is there.

    tell : called with each `EpochReport`; may raise to stop. Raises `Superseded` where a newer attempt runs.
    """
    directory = fold_dir(data_dir, experiment.id, fold)
    directory.mkdir(parents=True, exist_ok=True)
    progress = AttemptProgress(directory)
    parts = split_faces(faces, experiment, fold)
    checkpoint = directory / CHECKPOINT
    options = experiment.options
    start = read_head_start(data_dir, experiment.start_from, options.seeds)
    note = progress.noting(tell)
    bank = train_bank(parts.train, parts.validation, options, fold, checkpoint, note, machine, start)
    progress.require_newest()
    write_safetensors(directory / BANK, bank.tensors)
    write_safetensors(directory / WEIGHTS, bank.weights)
    write_out_of_fold(directory, bank, options, parts.test, parts.test_rows)
    metrics = {
        "fold": fold,
        "faces": {name: len(getattr(parts, name)) for name in ("train", "validation", "test")},
        "validation_note": validation_note(len(parts.validation), len(parts.train), options.validation),
        "best_epochs": bank.best_epochs,
        "curve": bank.curve,
        "splits": {
            name: _split_metrics(experiment, bank, getattr(parts, name))
            for name in ("train", "validation", "test")
        },
    }
    write_events(directory, metrics)
    write_json(directory / METRICS, metrics)
    checkpoint.unlink(missing_ok=True)


def _split_metrics(experiment: Experiment, bank: TrainedBank, faces: EmbeddingSet) -> list[dict[str, Any]]:
    """Metrics of each member on its own."""
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


def write_out_of_fold(
    directory: Path,
    bank: TrainedBank,
    options: TrainingOptions,
    test: EmbeddingSet,
    rows: npt.NDArray[np.int64],
) -> None:
    """The members' mean probabilities of the left-out faces; `row` counts the experiment's labelled faces."""
    predicted = member_probabilities(bank.tensors, options, test)
    arrays: dict[str, npt.NDArray[Any]] = {"row": rows}
    arrays |= {task.value: members.mean(axis=0) for task, members in predicted.items()}
    write_npz(directory / OUT_OF_FOLD, arrays)
