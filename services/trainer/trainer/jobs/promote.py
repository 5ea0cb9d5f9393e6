"""The queue job that serves what was better, where that was asked for before it was known."""

from functools import partial
from pathlib import Path

import structlog

from trainer.experiments.experiment import Experiment
from trainer.experiments.promote import awaits_promotion, promote
from trainer.experiments.served import serves_all
from trainer.experiments.store import experiment_dir, save_experiment
from trainer.jobs.interruptions import attempt, noting_failure
from trainer.jobs.train import wanted_experiment
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)


def serve_better(experiment_id: str) -> None:
    """Serve the folds' banks or the bank on all faces, whichever the refits found to be better.

    If other heads were promoted meanwhile, or a rollback was made, that decision is the later one and stays.
    """
    data_dir = TrainerSettings().data_dir
    experiment = wanted_experiment(data_dir, experiment_id)
    if experiment is None or not awaits_promotion(data_dir, experiment):
        return
    if not serves_all(data_dir, experiment):
        log.info("promotion dropped, other heads are served since", experiment=experiment_id)
        save_experiment(data_dir, experiment.model_copy(update={"promote": False}))
    else:
        directory = experiment_dir(data_dir, experiment_id)
        fail = noting_failure(directory, "the better heads are not served: ")
        attempt(partial(_serve, data_dir, experiment), fail, experiment=experiment_id)


def _serve(data_dir: Path, experiment: Experiment) -> None:
    promote(data_dir, experiment)
