"""A search: its space of options, the request, its record `searches/<id>/search.json`, files and faces.

The space has, for each option that varies, a span or a list of choices.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
from agegender.errors import not_found
from agegender.spaces import NAME, Space
from agegender_service.inputs import DEPRECATED, with_new_names
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    computed_field,
    model_validator,
)

from trainer.datasets.embedding_set import FaceLabels
from trainer.datasets.exclusiveness import Overlap
from trainer.datasets.folds import groups_of, strata_of, stratified_folds
from trainer.experiments.experiment import FACES, MERGED, TrainingRequest, invalid_options, refused
from trainer.experiments.experiment_data import Faces, labelled
from trainer.runs.run import Run, RunStatus, State, load_record, new_id, read_optional, save_record
from trainer.training.config import Objective, Preset, TrainingOptions

_WITHIN = "parameters."


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
                    raise invalid_options(error, _WITHIN) from error
                raise invalid_options(_no_option(path), _WITHIN) from error


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


PREFIX = "search-"  # so that an id shows its kind of run
RECORD, TRIAL, RESULT = "search.json", "trial.json", "result.json"

Goal = Literal["nll", "mae", "group-accuracy", "gender-accuracy"]
TrialState = Literal["queued", "running", "finished", "pruned", "failed", "cancelled"]

_NEEDS = {"mae": "age", "group-accuracy": "age", "gender-accuracy": "gender"}


class SearchRequest(TrainingRequest):
    """`POST /searches`. All trials share the options given here, except for those that the search varies."""

    trials: int = Field(30, ge=1, le=1000, description="number of settings to try; each is a queue job")
    parameters: Parameters | None = Field(
        None,
        max_length=50,
        description="what to vary: path of an option, such as optimizer.learning_rate → its span or choices; "
        "default: those of the preset",
    )
    goal: Goal = Field(
        "nll", description="metric that selects the best trial; nll is the sum over age and gender, in nats"
    )
    inner_folds: int = Field(
        3, ge=2, le=20, description="number of folds of the inner cross-validation that evaluates a trial"
    )
    held_out: list[int] | None = Field(
        None, description="folds that the search does not use; default: the last one; may be empty"
    )
    pruning: bool = Field(
        True,
        description="stop a trial after an inner fold if it is worse there than the median of the others",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_old_name_of_folds(cls, data: Any) -> Any:
        return with_new_names(data, {"parts": "inner_folds"})

    @model_validator(mode="after")
    def _require_goal_of_task(self) -> "SearchRequest":
        needed = _NEEDS.get(self.goal)
        if needed is not None and needed not in self.task:
            raise ValueError(f"goal: {self.goal} needs a task with {needed}, but the task is {self.task}")
        return self


class Search(Run):
    """search.json. Only `cancelled` changes after it is created."""

    datasets: list[str]
    image_set: str = Field(validation_alias=AliasChoices("image_set", "variant"))
    space: Space
    folds: list[int] = Field(description="folds whose faces train and evaluate the trials")
    held_out: list[int]
    options: TrainingOptions = Field(description="of all trials, except for those that vary")
    preset: Preset
    parameters: Parameters
    trials: int
    goal: Goal
    inner_folds: int = Field(validation_alias=AliasChoices("inner_folds", "parts"))  # as 0.1.0 wrote
    pruning: bool
    overlap: Overlap = "allow"  # for records of release 0.1.0, which did not check
    exclusiveness: dict[str, Any] | None = Field(
        None, description="what was checked at its creation, and what was found; null: nothing was checked"
    )
    data_sha256: dict[str, str] | None = Field(
        None,
        description="data set → SHA-256 of its extracted file at the creation; null: an earlier release "
        "created it",
    )
    warnings: list[str] = Field(default_factory=list)

    @computed_field(description="former name of `image_set`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def variant(self) -> str:
        return self.image_set

    @computed_field(description="former name of `inner_folds`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def parts(self) -> int:
        return self.inner_folds

    @property
    def maximises(self) -> bool:
        return self.goal.endswith("accuracy")


class Trial(BaseModel):
    """trial.json: the settings of a trial, written when it begins. `number` counts in Optuna's study."""

    number: int
    values: dict[str, Any] = Field(description="option → value")
    options: TrainingOptions


class TrialResult(BaseModel):
    """result.json: its presence marks the trial as over."""

    state: Literal["finished", "pruned", "failed"]
    value: float | None = Field(None, description="mean of the goal over the evaluated inner folds")
    metrics: dict[str, float] = Field(
        default_factory=dict, description="means over the evaluated inner folds"
    )
    problem: str | None = None


class TrialStatus(BaseModel):
    trial: int
    state: TrialState
    value: float | None = None
    values: dict[str, Any] = Field(default_factory=dict, description="option → value")
    metrics: dict[str, float] = Field(default_factory=dict)
    epoch: int = Field(0, description="over all inner folds")
    epochs: int = Field(0, description="at most")
    attempts: int = 0
    problem: str | None = None


class Best(BaseModel):
    """The best trial that was evaluated on all inner folds."""

    trial: int
    value: float
    values: dict[str, Any] = Field(description="option → value")
    metrics: dict[str, float]
    experiment: dict[str, Any] = Field(description="body for POST /experiments with these options")


class SearchStatus(RunStatus):
    state: State
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


def new_search_id(idempotency_key: str | None) -> str:
    return PREFIX + new_id(idempotency_key)


def search_dir(data_dir: Path, search_id: str) -> Path:
    """Return a search's folder. Raises ``not-found`` 404 for an id that could leave `searches`."""
    if not NAME.fullmatch(search_id):
        raise not_found("search", search_id)
    return data_dir / "searches" / search_id


def trial_dir(data_dir: Path, search_id: str, trial: int) -> Path:
    return search_dir(data_dir, search_id) / "trials" / str(trial)


def merged_search_subjects(data_dir: Path, search: Search) -> Path | None:
    """Return the file of merged subjects, for `load_faces`; None if none were merged."""
    return search_dir(data_dir, search.id) / MERGED if search.overlap == "merge" else None


def recorded_search_faces(data_dir: Path, search: Search) -> Path | None:
    """Return the file of `record_faces`, for `load_faces`; None if an earlier release did not write it."""
    return None if search.data_sha256 is None else search_dir(data_dir, search.id) / FACES


def load_search(data_dir: Path, search_id: str) -> Search:
    """Read a record. Raises ``not-found`` 404 and ``unreadable-record`` 409."""
    return load_record(search_dir(data_dir, search_id) / RECORD, Search, "search", search_id)


def save_search(data_dir: Path, search: Search) -> None:
    save_record(search_dir(data_dir, search.id) / RECORD, search)


def read_trial(directory: Path) -> Trial | None:
    """Read the settings of a trial, None if it has not begun."""
    found = read_optional(directory / TRIAL)
    return None if found is None else Trial.model_validate(found)


def read_result(directory: Path) -> TrialResult | None:
    """Read the result of a trial, None if it is not over."""
    found = read_optional(directory / RESULT)
    return None if found is None else TrialResult.model_validate(found)


def begun_numbers(data_dir: Path, search: Search) -> set[int]:
    """Return the numbers, in Optuna's study, of the trials that have begun and are not over."""
    directories = [trial_dir(data_dir, search.id, number) for number in range(search.trials)]
    begun = [read_trial(directory) for directory in directories if not (directory / RESULT).exists()]
    return {trial.number for trial in begun if trial is not None}


def searched_faces(faces: Faces, search: Search) -> tuple[Faces, np.ndarray]:
    """Return the labelled faces of the search's folds, and the inner fold [faces] that each belongs to.

    Raises ``too-few-subjects`` 422.
    """
    selected = labelled(faces, search.options)
    selected = selected.rows(np.flatnonzero(np.isin(selected.fold, search.folds)))
    strata = strata_of(selected.age_low, selected.age_high, selected.gender)
    return selected, stratified_folds(
        strata, groups_of(selected.subject), search.inner_folds, search.options.seed
    )


def require_exact_ages(faces: FaceLabels, fold_of: np.ndarray, search: Search) -> None:
    """Raise ``invalid-request`` 422 if the goal is an error in years and an inner fold has no exact age."""
    exact = fold_of[faces.has_age & (faces.age_low == faces.age_high)]
    if search.goal == "mae" and len(np.unique(exact)) < search.inner_folds:
        raise refused(
            "goal",
            "mae needs faces of exactly known age in every inner fold, and too few are; "
            "use nll or group-accuracy.",
        )
