"""Train on one data set and test on another with other faces, cameras and labels."""

from itertools import permutations
from pathlib import Path

import numpy as np
from agegender.heads.head import Task, over_years
from trainer.datasets.exclusiveness import shared_faces
from trainer.datasets.folds import groups_of, strata_of, validation_split
from trainer.evaluation import member_probabilities
from trainer.experiments.experiment import load_experiment
from trainer.experiments.experiment_data import labelled, load_faces
from trainer.training.train import train_bank

from benchmarks.accuracy.answers import METRICS, figures, row
from benchmarks.accuracy.tables import Table


def cross(name: str, data_dir: Path, experiment_id: str) -> Table:
    """Evaluate both directions between the data sets of an experiment, with its recipe; not calibrated."""
    experiment = load_experiment(data_dir, experiment_id)
    options = experiment.options
    sets = {
        one: labelled(load_faces(data_dir, [one], experiment.space, experiment.image_set), options)
        for one in experiment.datasets
    }
    for source, target in permutations(sets, 2):
        count, examples = shared_faces({source: sets[source]}, {target: sets[target]})
        if count:
            raise RuntimeError(f"{count} faces of {target} are also in {source}, such as {examples[0]}")
    lines = []
    for source, fit in sets.items():
        strata = strata_of(fit.age_low, fit.age_high, fit.gender)
        validates = validation_split(strata, groups_of(fit.subject), options.validation, seed=options.seed)
        bank = train_bank(fit.rows(~validates), fit.rows(validates), options, fold=0)
        for target, faces in sets.items():
            if target == source:
                continue
            predicted = member_probabilities(bank.tensors, options, faces)
            age = over_years(predicted[Task.AGE].mean(axis=0), dict(options.tasks)[Task.AGE])
            found = figures(np.asarray(age), predicted[Task.GENDER].mean(axis=0), faces)
            values = {metric: (value, 0.0) for metric, value in found.items()}
            lines.append(row(f"{source} → {target}", values))
    return Table(f"Across data sets: {name}", ["trained → tested", *METRICS], lines)
