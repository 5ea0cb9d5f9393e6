"""What an experiment is: the request, completed, as `experiments/<id>/experiment.json` keeps it."""

from datetime import datetime
from typing import Any, Literal

from agegender.spaces import Space
from pydantic import BaseModel, Field, StrictInt

from trainer.datasets.exclusiveness import Overlap
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
    refit: bool = Field(
        False,
        description="train on all faces too, as `POST /experiments/{id}/refit` does later: what is promoted "
        "is then whichever is better out of fold",
    )


class ChosenBy(BaseModel):
    """Where the options come from, for the report to say whose figures are independent of their choice."""

    search: str
    trial: int
    trials: int = Field(description="that were compared")
    datasets: list[str]
    held_out: list[int] = Field(description="folds that the search never looked at")
    shared_faces: int | None = Field(
        None,
        description="of this experiment, in other data sets that the search looked at; null: not counted",
    )


class Experiment(BaseModel):
    """experiment.json. It never changes but for the last three; how far it is, its files tell."""

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
    refit: bool = False
    overlap: Overlap = "allow"  # of records of earlier releases, which were not checked
    exclusiveness: dict[str, Any] | None = Field(
        None, description="what was checked when it was created, and found; null: nothing was checked"
    )
    warnings: list[str] = Field(default_factory=list)
    promote: bool = Field(False, description="serve the better one, once its refits are done")
    cancelled: bool = False

    @property
    def refits(self) -> list[int | None]:
        """The folds that its refits leave out; None, on all faces, comes last."""
        return [*self.folds, None] if self.refit else []


class WorkStatus(BaseModel):
    """How far one bank of networks is."""

    state: State
    epoch: int = 0
    epochs: int = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    seconds_left: float | None = Field(None, description="estimate")
    attempts: int = 0
    worker: str | None = Field(None, description="host and process that has, or had, the newest attempt")
    curve: list[tuple[int, float, float | None]] = Field(
        default_factory=list, description="epoch, training loss, validation loss; at most a hundred points"
    )
    problem: str | None = None


class FoldStatus(WorkStatus):
    fold: int


class RefitStatus(WorkStatus):
    """Training without a validation part, for as many epochs as were best with one."""

    fold: int | None = Field(description="that is left out, for the comparison; null: on all faces")


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
    refits: list[RefitStatus] = Field(default_factory=list, description="where `refit` was asked for")
    promoted: dict[str, str] = Field(default_factory=dict, description="task → version, where promoted")
    warnings: list[str] = Field(
        default_factory=list, description="what to know of its folds and of what could not be checked"
    )
