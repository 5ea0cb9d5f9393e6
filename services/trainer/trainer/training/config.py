"""Options of training with their defaults, and the report of an epoch. Does not import torch."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from agegender.heads.head import Classes, Task
from agegender.heads.networks import Architecture, Mlp, ResMlp
from pydantic import BaseModel, ConfigDict, Field

Mask = npt.NDArray[np.bool_]
Objective = Literal["age", "gender", "age-gender"]
Preset = Literal["default", "original"]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerOptions(_Options):
    """AdamW (arXiv 1711.05101); weight decay on weight matrices only."""

    learning_rate: float = Field(2e-3, gt=0, le=1)
    weight_decay: float = Field(0.05, ge=0, le=10)
    batch_size: int = Field(256, ge=2, le=65536)
    epochs: int = Field(30, ge=1, le=2000)
    patience: int = Field(8, ge=1, le=2000, description="epochs without a better validation loss")
    schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    gamma: float = Field(0.95, gt=0, le=1, description="factor per epoch of the exponential schedule")
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per step of a moving average of the weights, which is then validated and kept "
        "instead (arXiv 1803.05407 uses equal weights); 0 is off",
    )


class LossOptions(_Options):
    """The loss: the sum over the trained tasks.

    An exact age is learnt as a normal distribution around its year (arXiv 1611.01731) plus a peak at the
    year.
    """

    label_width: float = Field(0.2, ge=0, le=20, description="standard deviation at age 0, in years")
    label_growth: float = Field(
        0.08,
        ge=0,
        le=0.5,
        description="growth of the standard deviation per year: older faces show their age less",
    )
    label_peak: float = Field(0.2, ge=0, le=1, description="share of the peak at the year itself")
    mean_weight: float = Field(0.1, ge=0, le=10, description="weight of the absolute error of the mean age")
    gender_weight: float = Field(1.0, ge=0, le=100, description="weight of the gender's cross entropy")


class AugmentationOptions(_Options):
    """Random changes of the training faces."""

    mirrored: bool = Field(
        True,
        description="use the embedding of the mirrored or varied image half of the time, if it was extracted",
    )
    noise: float = Field(
        0.0, ge=0, le=2, description="standard deviation of added noise, relative to that of the features"
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=10,
        description="alpha of mixup (arXiv 1710.09412), between faces with a label for each task; 0 is off",
    )


class TrainingOptions(_Options):
    """All options of training. Unknown options are rejected."""

    task: Objective = "age-gender"
    classes: Literal["years", "groups"] = "years"
    head: Annotated[Architecture, Field()] = Mlp(hidden=(256, 256, 256), dropout=0.2, input_dropout=0.2)
    optimizer: OptimizerOptions = OptimizerOptions()
    loss: LossOptions = LossOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    seeds: int = Field(3, ge=1, le=64, description="networks per fold, trained at once as one bank")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    validation: float = Field(
        0.1,
        ge=0.02,
        le=0.5,
        description="share of the training faces in the validation split, which shares no subject",
    )

    @property
    def tasks(self) -> list[tuple[Task, Classes]]:
        """Return the tasks and their classes in the order of the outputs."""
        age = (Task.AGE, Classes.YEARS if self.classes == "years" else Classes.GROUPS)
        gender = (Task.GENDER, Classes.GENDERS)
        return {"age": [age], "gender": [gender], "age-gender": [age, gender]}[self.task]

    @property
    def outputs(self) -> int:
        return sum(classes.outputs for _, classes in self.tasks)


def mixup_warnings(options: TrainingOptions, has_age: Mask, has_gender: Mask) -> list[str]:
    """Return a warning if mixup would mix no faces.

    has_age, has_gender : whether the label is known [faces].
    """
    known = {Task.AGE: has_age, Task.GENDER: has_gender}
    if np.all([known[task] for task, _ in options.tasks], axis=0).sum() > 1:
        return []
    names = " and a known ".join(task.value for task, _ in options.tasks)
    return [f"augmentation.mixup has no effect: fewer than two faces have a known {names}."]


def preset_options(preset: Preset, task: Objective) -> dict[str, Any]:
    """Return the options of a preset; a request may override each of them.

    `original` has those of tae898/age-gender (its README; arXiv 2108.08186), which trained age and gender
    separately.
    """
    if preset == "default":
        return {}
    gender = task == "gender"
    return {
        "head": ResMlp(blocks=4 if gender else 2, residuals_per_block=1, dropout=0.05).model_dump(),
        "optimizer": OptimizerOptions(
            learning_rate=2.4e-2 if gender else 1.17e-3,
            weight_decay=4.7e-3 if gender else 1.2e-4,
            batch_size=512 if gender else 128,
            epochs=100,
            patience=5,
            schedule="exponential",
            gamma=0.0662 if gender else 0.3948,
        ).model_dump(),
        "loss": LossOptions(label_width=0, label_growth=0, label_peak=0, mean_weight=0).model_dump(),
        "augmentation": AugmentationOptions(mirrored=False).model_dump(),
    }


@dataclass(frozen=True)
class EpochReport:
    """Progress after an epoch. Losses are means over the members; None without validation."""

    epoch: int
    epochs: int
    train_loss: float
    validation_loss: float | None
    members_running: int
