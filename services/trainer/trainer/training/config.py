"""Every option of training, with its default."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from agegender.heads.architecture import Architecture, Mlp, ResMlp
from agegender.heads.head import Classes, Task
from pydantic import BaseModel, ConfigDict, Field

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
    gamma: float = Field(0.95, gt=0, le=1, description="factor an epoch of the exponential schedule")
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay a step of the moving average of the weights, which is then what is validated "
        "and kept (arXiv 1803.05407 averages evenly); 0 is off",
    )


class LossOptions(_Options):
    """What is minimised; age and gender are added where both are trained.

    An age is learnt as a normal distribution about its year (arXiv 1611.01731) with a peak on the year.
    """

    label_width: float = Field(0.2, ge=0, le=20, description="its standard deviation at birth, in years")
    label_growth: float = Field(
        0.08,
        ge=0,
        le=0.5,
        description="by how much that grows a year: older faces show it less",
    )
    label_peak: float = Field(0.2, ge=0, le=1, description="part of the label that is the year itself")
    mean_weight: float = Field(0.1, ge=0, le=10, description="of the absolute error of the expected age")
    gender_weight: float = Field(1.0, ge=0, le=100)


class AugmentationOptions(_Options):
    mirrored: bool = Field(
        True, description="use the mirrored face's embedding half the time, where there is one"
    )
    noise: float = Field(0.0, ge=0, le=2, description="standard deviation, in those of the features")
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of mixup (arXiv 1710.09412); 0 is off")


class TrainingOptions(_Options):
    """All of them. Unknown options are errors."""

    task: Objective = "age-gender"
    classes: Literal["years", "groups"] = "years"
    head: Annotated[Architecture, Field()] = Mlp(hidden=(256, 256, 256), dropout=0.2, input_dropout=0.2)
    optimizer: OptimizerOptions = OptimizerOptions()
    loss: LossOptions = LossOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    seeds: int = Field(3, ge=1, le=64, description="networks a fold, trained at once as one bank")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    validation: float = Field(
        0.1, ge=0.02, le=0.5, description="part of the training faces, no subject shared"
    )

    @property
    def tasks(self) -> list[tuple[Task, Classes]]:
        """What the outputs are, in their order."""
        age = (Task.AGE, Classes.YEARS if self.classes == "years" else Classes.GROUPS)
        gender = (Task.GENDER, Classes.GENDERS)
        return {"age": [age], "gender": [gender], "age-gender": [age, gender]}[self.task]

    @property
    def outputs(self) -> int:
        return sum(classes.outputs for _, classes in self.tasks)


def preset_options(preset: Preset, task: Objective) -> dict[str, Any]:
    """Options that a preset gives, for a request to override one by one.

    `original` is that of tae898/age-gender (its README; arXiv 2108.08186), which trained them apart.
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
    """Told after each epoch. Losses are means over the members; None where nothing validates."""

    epoch: int
    epochs: int
    train_loss: float
    validation_loss: float | None
    members_running: int
