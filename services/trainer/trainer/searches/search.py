"""A search: the request, its record `searches/<id>/search.json`, its status, files and faces."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from agegender.errors import not_found
from agegender.spaces import NAME, Space
from pydantic import AliasChoices, BaseModel, Field, computed_field, model_validator

from trainer.datasets.embedding_set import FaceLabels
from trainer.datasets.exclusiveness import Overlap
from trainer.datasets.folds import groups_of, strata_of, stratified_folds
from trainer.experiments.experiment import MERGED, TrainingRequest, refused
from trainer.experiments.experiment_data import Faces, labelled
from trainer.runs.run import DEPRECATED, Run, RunStatus, State, with_new_names
from trainer.runs.store import load_record, new_id, read_optional, save_record
from trainer.searches.space import Parameters
from trainer.training.config import Objective, Preset, TrainingOptions

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
