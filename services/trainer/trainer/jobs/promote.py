"""The queue job that serves what was better, where that was asked for before it was known."""

from functools import partial
from pathlib import Path

from agegender.files import write_json

from trainer.experiments.experiment import Experiment
from trainer.experiments.promote import awaits_promotion, promote
from trainer.experiments.store import FAILURE, experiment_dir
from trainer.jobs.interruptions import succeeds
from trainer.jobs.train import wanted_experiment
from trainer.settings import TrainerSettings


def serve_better(experiment_id: str) -> None:
    """Serve the folds' banks or the bank on all faces, whichever the refits found to be better."""
    data_dir = TrainerSettings().data_dir
    experiment = wanted_experiment(data_dir, experiment_id)
    if experiment is not None and awaits_promotion(data_dir, experiment):
        directory = experiment_dir(data_dir, experiment_id)
        succeeds(partial(_serve, data_dir, experiment), partial(_fail, directory), experiment=experiment_id)


def _serve(data_dir: Path, experiment: Experiment) -> None:
    promote(data_dir, experiment)


def _fail(directory: Path, told: str) -> None:
    write_json(directory / FAILURE, {"detail": f"the better heads are not served: {told}"})
