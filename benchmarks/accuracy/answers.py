"""Out-of-fold predictions of experiments."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from agegender.heads.head import Classes, Task, over_years
from agegender.labels import group_probabilities
from safetensors.numpy import load as load_safetensors
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.evaluation import (
    OutOfFold,
    age_metrics,
    calibration_error,
    crossed_calibration,
    gender_metrics,
    member_probabilities,
    true_groups,
)
from trainer.experiments.experiment import Experiment, fold_dir, load_experiment, merged_subjects
from trainer.experiments.experiment_data import labelled, load_faces

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

METRICS = ("MAE", "groups", "one-off", "gender", "NLL", "ECE")


@dataclass(frozen=True)
class Answers:
    """Out-of-fold probabilities of single networks: age [seeds, faces, 101], gender [seeds, faces, 2]."""

    name: str
    faces: EmbeddingSet
    age: Array
    gender: Array

    def ensemble(self) -> "Answers":
        """Return the mean over the seeds, with each fold calibrated on the other folds."""
        found = OutOfFold(
            self.faces, {Task.AGE: self.age.mean(axis=0), Task.GENDER: self.gender.mean(axis=0)}
        )
        age, _, _ = crossed_calibration(found, Task.AGE, Classes.YEARS)
        gender, _, _ = crossed_calibration(found, Task.GENDER, Classes.GENDERS)
        return Answers(f"{self.name}, ensemble, calibrated", self.faces, age[None], gender[None])


def fold_bank(data_dir: Path, experiment: Experiment, fold: int) -> dict[str, Array]:
    return dict(load_safetensors((fold_dir(data_dir, experiment.id, fold) / "bank.safetensors").read_bytes()))


def experiment_faces(data_dir: Path, experiment: Experiment) -> EmbeddingSet:
    return labelled(
        load_faces(
            data_dir,
            experiment.datasets,
            experiment.space,
            experiment.image_set,
            merged_subjects(data_dir, experiment),
        ),
        experiment.options,
    )


def of_experiments(name: str, data_dir: Path, ids: list[str]) -> Answers:
    """Return the predictions of experiments on the same data sets; seeds of a task are concatenated."""
    found: dict[Task, list[Array]] = {Task.AGE: [], Task.GENDER: []}
    for experiment in (load_experiment(data_dir, identifier) for identifier in ids):
        faces, options = experiment_faces(data_dir, experiment), experiment.options
        own = {
            task: np.zeros((options.seeds, len(faces), classes.outputs), np.float32)
            for task, classes in options.tasks
        }
        for fold in experiment.folds:
            rows = np.flatnonzero(faces.fold == fold)
            bank = fold_bank(data_dir, experiment, fold)
            for task, predicted in member_probabilities(bank, options, faces.rows(rows)).items():
                own[task][:, rows] = predicted
        for task, classes in options.tasks:
            found[task].append(over_years(own[task], classes) if task is Task.AGE else own[task])
    return Answers(name, faces, np.concatenate(found[Task.AGE]), np.concatenate(found[Task.GENDER]))


def figures(age: Array, gender: Array, faces: EmbeddingSet) -> dict[str, float]:
    """Return the metrics of one network: MAE in years, accuracies, age NLL in nats, ECE of the groups."""
    of_age, of_gender = age_metrics(age, faces), gender_metrics(gender, faces)
    known = faces.has_age
    error = calibration_error(group_probabilities(age[known]), true_groups(faces)[known])
    values = (
        of_age["mae"],
        of_age["group_accuracy"],
        of_age["one_off_accuracy"],
        of_gender["accuracy"],
        of_age["nll"],
        error,
    )
    return {metric: float(value or 0) for metric, value in zip(METRICS, values, strict=True)}


def spread(answers: Answers, rows: Mask) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation over folds × seeds of each metric, for the faces in `rows`."""
    found = []
    for fold in np.unique(answers.faces.fold):
        own = np.flatnonzero((answers.faces.fold == fold) & rows)
        for seed in range(len(answers.age)):
            found.append(figures(answers.age[seed, own], answers.gender[seed, own], answers.faces.rows(own)))
    return {
        metric: (float(np.mean(values)), float(np.std(values)))
        for metric in METRICS
        for values in [[one[metric] for one in found]]
    }


def row(name: str, values: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return a row of a table; a single value has no deviation."""
    cells = [name]
    for metric in METRICS:
        mean, deviation = values[metric]
        digits = 2 if metric in ("MAE", "NLL") else 3
        cells.append(f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation > 0 else ""))
    return cells


def rows_by_dataset(faces: EmbeddingSet, datasets: list[str]) -> dict[str, Mask]:
    """Return the rows of each data set; all rows if there is only one."""
    if len(datasets) == 1:
        return {datasets[0]: np.ones(len(faces), dtype=bool)}
    return {name: np.char.startswith(faces.file, f"{name}/") for name in datasets}
