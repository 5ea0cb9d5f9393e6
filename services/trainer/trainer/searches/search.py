"""What a search is: the request, completed, as `searches/<id>/search.json` keeps it; and its status."""

from datetime import datetime
from typing import Any, Literal

from agegender.spaces import Space
from pydantic import BaseModel, Field, model_validator

from trainer.datasets.exclusiveness import Overlap
from trainer.experiments.experiment import State
from trainer.experiments.request import TrainingRequest
from trainer.searches.parameters import Parameters
from trainer.training.config import Objective, Preset, TrainingOptions

Goal = Literal["nll", "mae", "group-accuracy", "gender-accuracy"]
TrialState = Literal["queued", "running", "finished", "pruned", "failed", "cancelled"]

_NEEDS = {"mae": "age", "group-accuracy": "age", "gender-accuracy": "gender"}


class SearchRequest(TrainingRequest):
    """`POST /searches`. Options that are given here are the same in all trials, but for what varies."""

    trials: int = Field(30, ge=1, le=1000, description="settings to try, each a queue job")
    parameters: Parameters | None = Field(
        None,
        max_length=50,
        description="what varies: an option's path, such as optimizer.learning_rate, and its span or its "
        "choices; default: the preset's",
    )
    goal: Goal = Field(
        "nll", description="what the best trial is best in; nll is the sum of age's and gender's, in nats"
    )
    parts: int = Field(3, ge=2, le=20, description="of the inner cross-validation by which a trial is judged")
    held_out: list[int] | None = Field(
        None, description="folds that the search never looks at; default the last one; may be empty"
    )
    pruning: bool = Field(
        True, description="give a trial up after a part where half of the others are better"
    )

    @model_validator(mode="after")
    def _goal_is_learnt(self) -> "SearchRequest":
        needed = _NEEDS.get(self.goal)
        if needed is not None and needed not in self.task:
            raise ValueError(f"goal: {self.goal} needs a task with {needed}, and this is {self.task}")
        return self


class Search(BaseModel):
    """search.json. It never changes but for `cancelled`; how far it is, its trials' files tell."""

    id: str
    created: datetime
    datasets: list[str]
    variant: str
    space: Space
    folds: list[int] = Field(description="whose faces the trials are trained and judged on")
    held_out: list[int]
    options: TrainingOptions = Field(description="of all trials, but for what varies")
    preset: Preset
    parameters: Parameters
    trials: int
    goal: Goal
    parts: int
    pruning: bool
    overlap: Overlap = "allow"  # of records of earlier releases, which were not checked
    exclusiveness: dict[str, Any] | None = Field(
        None, description="what was checked when it was created, and found; null: nothing was checked"
    )
    warnings: list[str] = Field(default_factory=list)
    cancelled: bool = False

    @property
    def maximises(self) -> bool:
        return self.goal.endswith("accuracy")


class Trial(BaseModel):
    """trial.json: what a trial is, from its beginning. `number` is its number in Optuna's study."""

    number: int
    values: dict[str, Any] = Field(description="option → value")
    options: TrainingOptions


class TrialResult(BaseModel):
    """result.json: says that the trial is over."""

    state: Literal["finished", "pruned", "failed"]
    value: float | None = Field(None, description="mean of the goal over the parts that were judged")
    metrics: dict[str, float] = Field(default_factory=dict, description="means over these parts")
    problem: str | None = None


class TrialStatus(BaseModel):
    trial: int
    state: TrialState
    value: float | None = None
    values: dict[str, Any] = Field(default_factory=dict, description="option → value")
    metrics: dict[str, float] = Field(default_factory=dict)
    epoch: int = Field(0, description="over all parts")
    epochs: int = Field(0, description="at most")
    attempts: int = 0
    problem: str | None = None


class Best(BaseModel):
    """The best trial that was judged on all parts."""

    trial: int
    value: float
    values: dict[str, Any] = Field(description="option → value")
    metrics: dict[str, float]
    experiment: dict[str, Any] = Field(description="body of a POST /experiments with these options")


class SearchStatus(BaseModel):
    id: str
    state: State
    created: datetime
    task: Objective
    datasets: list[str]
    space: Space
    preset: Preset
    goal: Goal
    folds: list[int]
    held_out: list[int]
    trials: list[TrialStatus]
    best: Best | None
    warnings: list[str] = Field(default_factory=list)
    problem: str | None = None
