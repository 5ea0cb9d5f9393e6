"""Compare an ensemble's uncertainty, and its cost, with Monte-Carlo dropout at equal coverage."""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from agegender.heads.head import Classes, Task
from agegender.heads.networks import Layer, bank_logits, softmax
from agegender.labels import group_probabilities
from sklearn.metrics import roc_auc_score
from trainer.evaluation import OutOfFold, age_metrics, crossed_calibration, task_tensors, true_groups
from trainer.experiments.experiment import Experiment, load_experiment

from benchmarks.accuracy.answers import Array, experiment_faces, fold_bank
from benchmarks.accuracy.tables import Table

PASSES = 512  # the original's
FACES_PER_FOLD = 400
COLUMNS = [
    "",
    "NLL",
    "width of 90 % intervals",
    "covered",
    "AUROC of entropy, groups",
    "gender",
    "ms per face",
]


def uncertainty(name: str, data_dir: Path, ids: list[str]) -> Table:
    """Evaluate a sample of each held-out fold; every row is calibrated on the other folds in the same way."""
    experiments = [load_experiment(data_dir, identifier) for identifier in ids]
    ways = {
        "one network": (1, 0),
        f"one network, {PASSES} Monte-Carlo dropout passes": (1, PASSES),
        f"ensemble of {experiments[0].options.seeds}": (experiments[0].options.seeds, 0),
    }
    return Table(
        f"Uncertainty: {name}",
        COLUMNS,
        [[label, *_figures(data_dir, experiments, *way)] for label, way in ways.items()],
    )


def _figures(data_dir: Path, experiments: list[Experiment], members: int, passes: int) -> list[str]:
    faces = experiment_faces(data_dir, experiments[0])
    draws = np.random.default_rng(0)
    sample = np.concatenate(
        [
            draws.permutation(np.flatnonzero(faces.fold == fold))[:FACES_PER_FOLD]
            for fold in experiments[0].folds
        ]
    )
    faces = faces.rows(sample)
    found: dict[Task, Array] = {}
    seconds = 0.0
    for experiment in experiments:
        layers = {
            task: experiment.options.head.layers(experiment.space.dimension, classes.outputs)
            for task, classes in experiment.options.tasks
        }
        for fold in experiment.folds:
            bank = {key: value[:members] for key, value in fold_bank(data_dir, experiment, fold).items()}
            own = faces.fold == fold
            for task, classes in experiment.options.tasks:
                tensors = task_tensors(bank, experiment.options, task)
                started = time.perf_counter()
                predicted = _predicted(layers[task], tensors, faces.embedding[own], passes)
                seconds += time.perf_counter() - started
                found.setdefault(task, np.zeros((len(faces), classes.outputs), np.float32))[own] = predicted
    everything = OutOfFold(faces, found)
    age, low, high = crossed_calibration(everything, Task.AGE, Classes.YEARS)
    gender, _, _ = crossed_calibration(everything, Task.GENDER, Classes.GENDERS)
    inside = (low <= faces.age_high) & (faces.age_low <= high)
    groups = group_probabilities(age)
    return [
        f"{age_metrics(age, faces)['nll']:.3f}",
        f"{float((high - low).mean()):.1f} years",
        f"{float(inside.mean()):.3f}",
        f"{roc_auc_score(groups.argmax(axis=1) != true_groups(faces), _entropy(groups)):.3f}",
        f"{roc_auc_score(gender.argmax(axis=1) != faces.gender, _entropy(gender)):.3f}",
        f"{1000 * seconds / len(faces):.3f}",
    ]


def _predicted(layers: tuple[Layer, ...], tensors: dict[str, Array], embeddings: Array, passes: int) -> Array:
    if passes == 0:
        return np.asarray(softmax(bank_logits(layers, tensors, embeddings)).mean(axis=0), np.float32)
    draws = np.random.default_rng(0)
    total = sum(softmax(bank_logits(layers, tensors, embeddings, draws))[0] for _ in range(passes))
    return np.asarray(total / passes, dtype=np.float32)


def _entropy(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.asarray(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1))
