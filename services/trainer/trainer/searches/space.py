"""The search space: for each option that varies, a span or a list of choices."""

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

from trainer.experiments.experiment import invalid_options
from trainer.training.config import Objective, Preset, TrainingOptions

_PREFIX = "parameters."


class Span(BaseModel):
    """Values from `low` to `high`, inclusive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = Field(False, description="sample uniformly in the logarithm; needs `low` above 0")
    whole: bool = Field(False, description="whole numbers only")

    @model_validator(mode="after")
    def _require_order(self) -> "Span":
        if not self.low < self.high:
            raise ValueError(f"expected low < high, received low {self.low} and high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"expected low > 0 because log is true, received {self.low}")
        return self

    def distribution(self) -> BaseDistribution:
        """Return the span as Optuna's distribution."""
        if self.whole:
            return IntDistribution(round(self.low), round(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def ends(self) -> list[Any]:
        """Return the values that are checked on behalf of all."""
        return [round(self.low), round(self.high)] if self.whole else [self.low, self.high]


class Choices(BaseModel):
    """One of a few values of any type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: list[Any] = Field(min_length=1, max_length=100)

    def distribution(self) -> BaseDistribution:
        """Return the choices as Optuna's distribution."""
        return CategoricalDistribution([_named(choice) for choice in self.choices])

    def ends(self) -> list[Any]:
        """Return the values to check."""
        return self.choices


Parameter = Span | Choices
Parameters = dict[str, Parameter]


def preset_parameters(preset: Preset, task: Objective) -> Parameters:
    """Return the search space of a preset.

    `original` is the space that tae898/age-gender searched, according to its training results: batch size,
    rates and depth. Its dropout was fixed at 0.05.
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
    """Return the search space as Optuna's distributions."""
    return {name: parameter.distribution() for name, parameter in parameters.items()}


def values_of(parameters: Mapping[str, Parameter], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Convert what Optuna sampled to values of options."""
    return {
        name: _value(value) if isinstance(parameters[name], Choices) else value
        for name, value in drawn.items()
    }


def options_with(options: TrainingOptions, values: Mapping[str, Any]) -> TrainingOptions:
    """Return `options` with values at dotted paths. Raises pydantic's ValidationError."""
    given = deepcopy(options.model_dump(mode="json"))
    for path, value in values.items():
        *parents, name = path.split(".")
        target = given
        for parent in parents:
            target = target.setdefault(parent, {})
        target[name] = value
    return TrainingOptions.model_validate(given)


def require_options(options: TrainingOptions, parameters: Mapping[str, Parameter]) -> None:
    """Raise ``invalid-request`` 422 naming a parameter that is not an option or has invalid values."""
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
    """Encode a value as JSON text, because Optuna stores no lists."""
    return json.dumps(value)


def _value(named: Any) -> Any:
    return json.loads(named)
