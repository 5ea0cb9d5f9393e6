"""What an experiment is: the request, completed, as `experiments/<id>/experiment.json` keeps it."""

from datetime import datetime
from typing import Literal

from agegender.spaces import Space
from pydantic import BaseModel, Field, StrictInt

from trainer.experiments.request import TrainingRequest
from trainer.training.config import Objective, Preset, TrainingOptions

State = Literal["queued", "running", "finished", "failed", "cancelled"]


class ExperimentRequest(TrainingRequest):
    """`POST /experiments`."""

    folds: list[StrictInt] | None = Field(None, min_length=1, description="folds to leave out; default all")
    start_from: str | None = Field(
        None,
        description="an experiment on other data, with whose networks (of its first fold) these begin",
    )
    search: str | None = Field(
        None, description="a finished search, whose best options are taken in place of the preset's"
    )


class ChosenBy(BaseModel):
    """Where the options come from, for the report to say whose figures are independent of their choice."""

    search: str
    trial: int
    trials: int = Field(description="that were compared")
    datasets: list[str]
    held_out: list[int] = Field(description="folds that the search never looked at")


class Experiment(BaseModel):
    """experiment.json. It never changes but for `cancelled`; how far it is, its folds' files tell."""

    id: str
    created: datetime
    datasets: list[str]
    variant: str
    space: Space
    folds: list[int]
    options: TrainingOptions
    preset: Preset
    chosen_by: ChosenBy | None = None
    start_from: str | None = None
    cancelled: bool = False


class FoldStatus(BaseModel):
    fold: int
    state: State
    epoch: int = 0
    epochs: int = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    seconds_left: float | None = Field(None, description="estimate")
    attempts: int = 0
    worker: str | None = Field(None, description="host and process that has, or had, the newest attempt")
    curve: list[tuple[int, float, float]] = Field(
        default_factory=list, description="epoch, training loss, validation loss; at most a hundred points"
    )
    problem: str | None = None


class ExperimentStatus(BaseModel):
    id: str
    state: State
    created: datetime
    task: Objective
    datasets: list[str]
    space: Space
    seeds: int
    preset: Preset
    folds: list[FoldStatus]
    promoted: dict[str, str] = Field(default_factory=dict, description="task → version, where promoted")
