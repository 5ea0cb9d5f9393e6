"""Finished experiments on made-up faces, trained in this process: no queue, no worker."""

from pathlib import Path

import numpy as np
from trainer.datasets.embedding_set import EmbeddingSet, write_embedding_set
from trainer.experiments.experiment import FACES, Experiment, experiment_dir, fold_dir, save_experiment
from trainer.experiments.experiment_data import record_faces
from trainer.experiments.fold import run_fold
from trainer.reports.report import summarise, write_reports
from trainer.runs.attempt import Attempt
from trainer.training.bank import prepare_device
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment

FOLDS = [0, 1, 2]
OPTIONS = TrainingOptions.model_validate(
    {
        "head": {"kind": "mlp", "hidden": [16]},
        "optimizer": {"epochs": 8, "batch_size": 16},
        "seeds": 2,
        "validation": 0.3,
    }
)


def trained_experiment(
    data_dir: Path,
    name: str,
    dataset: str,
    faces: EmbeddingSet,
    options: TrainingOptions = OPTIONS,
    folds: list[int] = FOLDS,
) -> Experiment:
    """Write the data set `dataset`, train three folds on it, or those named, and write the report."""
    write_embedding_set(data_dir, dataset, "images", faces, {"kind": "made up"})
    experiment = made_experiment(folds, options, name=name).model_copy(update={"datasets": [dataset]})
    experiment = created(data_dir, experiment, faces)
    machine = prepare_device("cpu", False, 1)  # as a worker's job has it
    for fold in folds:
        run_fold(data_dir, experiment, faces, fold, Attempt(fold_dir(data_dir, name, fold)), machine)
    write_reports(data_dir, experiment, summarise(data_dir, experiment))
    return experiment


def created(data_dir: Path, experiment: Experiment, faces: EmbeddingSet) -> Experiment:
    """Store an experiment with the record of its faces, as the API does; return it."""
    path = experiment_dir(data_dir, experiment.id) / FACES
    hashes = record_faces(path, data_dir, experiment.datasets, experiment.space, experiment.image_set, faces)
    recorded = experiment.model_copy(update={"data_sha256": hashes})
    save_experiment(data_dir, recorded)
    return recorded


def without_meaning(faces: EmbeddingSet, seed: int = 0) -> EmbeddingSet:
    """Return the faces with their embeddings shuffled: nothing can be learnt from them."""
    order = np.random.default_rng(seed).permutation(len(faces))
    return EmbeddingSet(**{**vars(faces), "embedding": faces.embedding[order]})
