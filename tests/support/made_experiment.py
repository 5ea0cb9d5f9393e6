"""An experiment on the made-up faces, as the trainer's API would complete it."""

from datetime import UTC, datetime

from trainer.experiments.experiment import Experiment
from trainer.training.config import TrainingOptions

from tests.support.made_faces import SPACE


def made_experiment(
    folds: list[int], options: TrainingOptions, *, name: str = "made-up", refit: bool = False
) -> Experiment:
    """`name` is its ID; it is not saved."""
    return Experiment(
        id=name,
        created=datetime.now(UTC),
        datasets=["made"],
        image_set="images",
        space=SPACE,
        folds=folds,
        options=options,
        preset="default",
        refit=refit,
    )
