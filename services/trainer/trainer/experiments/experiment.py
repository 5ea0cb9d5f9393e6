"""What an experiment is: the request, completed, as `experiments/<id>/experiment.json` keeps it."""

from datetime import datetime
from typing import Any, Literal

from agegender.spaces import NAME, Space
from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainer.training.config import Objective, Preset, TrainingOptions, preset_options

State = Literal["queued", "running", "finished", "failed", "cancelled"]


class ExperimentRequest(BaseModel):
    """`POST /experiments`. What is not given comes from the preset; unknown options are errors."""

    model_config = ConfigDict(extra="forbid")

    task: Objective = "age-gender"
    dataset: str | list[str] = Field(description="one extracted data set, or several to train on together")
    variant: str | None = Field(None, description="folder of images, where several were extracted")
    space: str | None = Field(None, description="id of the space, where there are several")
    folds: list[int] | None = Field(None, min_length=1, description="folds to leave out; default all")
    preset: Preset = "default"
    seeds: int | None = None
    seed: int | None = None
    classes: Literal["years", "groups"] | None = None
    validation: float | None = None
    head: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None
    augmentation: dict[str, Any] | None = None

    @field_validator("dataset")
    @classmethod
    def _names(cls, value: str | list[str]) -> list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or len(set(names)) != len(names):
            raise ValueError("one or more different data sets")
        for name in names:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a data set")
        return names

    @property
    def datasets(self) -> list[str]:
        return [self.dataset] if isinstance(self.dataset, str) else self.dataset

    def training_options(self) -> TrainingOptions:
        """The preset's options with this request's over them. Raises pydantic's ValidationError."""
        given: dict[str, Any] = preset_options(self.preset, self.task)
        for name in ("head", "optimizer", "loss", "augmentation"):
            own = getattr(self, name)
            if own is not None:
                base = given.get(name, {})
                replaced = name == "head" and own.get("kind", "mlp") != base.get("kind", "mlp")
                given[name] = {"kind": "mlp", **own} if name == "head" and replaced else {**base, **own}
        if "head" in given:
            given["head"].setdefault("kind", "mlp")
        for name in ("seeds", "seed", "classes", "validation"):
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        return TrainingOptions.model_validate({"task": self.task, **given})


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
