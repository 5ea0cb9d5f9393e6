"""What a search varies: option by option, a span or a list of choices."""

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.experiments.request import invalid_options
from trainer.training.config import Objective, Preset, TrainingOptions

_PREFIX = "parameters."


class Span(BaseModel):
    """From `low` to `high`, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = Field(False, description="even in the logarithm; `low` is above 0 then")
    whole: bool = Field(False, description="whole numbers only")

    @model_validator(mode="after")
    def _has_an_inside(self) -> "Span":
        if not self.low < self.high:
            raise ValueError("low is to be below high")
        if self.log and self.low <= 0:
            raise ValueError("low is to be above 0 where log is true")
        return self

    def distribution(self) -> BaseDistribution:
        if self.whole:
            return IntDistribution(round(self.low), round(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def ends(self) -> list[Any]:
        """Values that stand for all when the span is checked."""
        return [round(self.low), round(self.high)] if self.whole else [self.low, self.high]


class Choices(BaseModel):
    """One of a few values, whatever their kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: list[Any] = Field(min_length=1, max_length=100)

    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution([_named(choice) for choice in self.choices])

    def ends(self) -> list[Any]:
        return self.choices


Parameter = Span | Choices
Parameters = dict[str, Parameter]


def preset_parameters(preset: Preset, task: Objective) -> Parameters:
    """`original`: the space that tae898/age-gender searched, as its training-results tell.

    The batch sizes, rates and the network's depth are those; its dropout stayed at 0.05.
    """
    if preset == "original":
        return {
            "head.residuals_per_block": Choices(choices=[0, 1, 2, 3, 4, 5]),
            "head.blocks": Choices(choices=[0, 1, 2, 3, 4, 5]),
            "optimizer.batch_size": Choices(choices=[128, 256, 512]),
            "optimizer.learning_rate": Span(low=1e-6, high=1e-1, log=True),
            "optimizer.weight_decay": Span(low=1e-6, high=1e-1, log=True),
            "optimizer.gamma": Span(low=1e-6, high=1, log=True),
        }
    of_age: Parameters = {
        "loss.label_width": Span(low=0.1, high=2),
        "loss.label_growth": Span(low=0, high=0.15),
        "loss.label_peak": Span(low=0, high=0.5),
        "loss.mean_weight": Span(low=0.01, high=1, log=True),
    }
    return {
        "head.hidden": Choices(choices=[[], [128], [256], [512], [256, 128], [128] * 3, [256] * 3]),
        "head.norm": Choices(choices=[True, False]),
        "head.dropout": Span(low=0, high=0.6),
        "head.input_dropout": Span(low=0, high=0.5),
        "optimizer.learning_rate": Span(low=3e-4, high=1e-2, log=True),
        "optimizer.weight_decay": Span(low=1e-3, high=0.5, log=True),
        "optimizer.batch_size": Choices(choices=[128, 256, 512]),
        "augmentation.noise": Span(low=0, high=0.3),
        **({} if task == "gender" else of_age),
    }


def distributions(parameters: Mapping[str, Parameter]) -> dict[str, BaseDistribution]:
    return {name: parameter.distribution() for name, parameter in parameters.items()}


def chosen_values(parameters: Mapping[str, Parameter], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna drew, as values of options."""
    return {
        name: _value(value) if isinstance(parameters[name], Choices) else value
        for name, value in drawn.items()
    }


def options_with(options: TrainingOptions, values: Mapping[str, Any]) -> TrainingOptions:
    """`options` with values at dotted paths. Raises pydantic's ValidationError."""
    given = deepcopy(options.model_dump(mode="json"))
    for path, value in values.items():
        *parents, name = path.split(".")
        target = given
        for parent in parents:
            target = target.setdefault(parent, {})
        target[name] = value
    return TrainingOptions.model_validate(given)


def require_options(options: TrainingOptions, parameters: Mapping[str, Parameter]) -> None:
    """Raises ``invalid-request`` 422 naming the parameter that no option of training can take."""
    for path, parameter in parameters.items():
        for value in parameter.ends():
            try:
                options_with(options, {path: value})
            except (ValidationError, AttributeError, TypeError) as error:
                if isinstance(error, ValidationError):
                    raise invalid_options(error, _PREFIX) from error
                raise invalid_options(_no_option(path), _PREFIX) from error


def _no_option(path: str) -> ValidationError:
    return ValidationError.from_exception_data(
        "parameters",
        [{"type": "value_error", "loc": (path,), "input": path, "ctx": {"error": "there is no such option"}}],
    )


def _named(value: Any) -> CategoricalChoiceType:
    """Optuna keeps text; lists and numbers go through JSON, so that they come back as they were."""
    return json.dumps(value)


def _value(named: Any) -> Any:
    return json.loads(named)
