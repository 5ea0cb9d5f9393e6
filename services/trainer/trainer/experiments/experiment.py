"""An experiment: the request, its record `experiments/<id>/experiment.json`, its status and its files."""

import difflib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from agegender.errors import Problem, not_found
from agegender.heads.networks import Mlp, ResMlp
from agegender.spaces import NAME, Space
from agegender_service.inputs import DEPRECATED, unknown_name, validation_problem, with_new_names
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationError,
    computed_field,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from trainer.datasets.embedding_set import is_dataset_name
from trainer.datasets.exclusiveness import Overlap
from trainer.runs.run import REPORT, Run, RunStatus, State, load_record, save_record
from trainer.training.config import (
    AugmentationOptions,
    LossOptions,
    Objective,
    OptimizerOptions,
    Preset,
    TrainingOptions,
    preset_options,
)

RECORD = "experiment.json"
METRICS, PROMOTED = "metrics.json", "promoted.json"
MERGED, FACES = "merged-subjects.npz", "faces.npz"
BANK, OUT_OF_FOLD, CHECKPOINT = "bank.safetensors", "out-of-fold.npz", "checkpoint.safetensors"

_GROUPS = ("head", "optimizer", "loss", "augmentation")
_SHOWN, _MOST_NAMES = 100, 50  # characters of an unknown option that are read, and members of a body
_SINGLE = ("seeds", "seed", "classes", "validation")


class TrainingRequest(BaseModel):
    """Common fields of requests for training. The preset gives the options that a request does not name.

    Unknown options are rejected, and so is text where a number is expected.
    """

    model_config = ConfigDict(extra="forbid")

    task: Objective = "age-gender"
    dataset: str | list[str] = Field(description="one extracted data set, or several to train on together")
    image_set: str | None = Field(
        None,
        description="folder of images, if there are several; for several data sets one each, with commas",
    )
    space: str | None = Field(None, description="id of the embedding space, if there are several")
    preset: Preset = "default"
    seeds: StrictInt | None = None
    seed: StrictInt | None = None
    classes: Literal["years", "groups"] | None = None
    validation: StrictFloat | None = None
    head: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None
    augmentation: dict[str, Any] | None = None
    overlap: Overlap = Field(
        "refuse",
        description="if faces of one photograph or subject are in several folds or data sets: `refuse` the "
        "request; `merge` them into one subject, in one fold; or `allow` it, which the report states",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, data: Any) -> Any:
        return with_new_names(data, {"variant": "image_set", "start_from": "warm_start"})

    @model_validator(mode="before")
    @classmethod
    def _reject_misplaced_options(cls, data: Any) -> Any:
        """Name the place of an option that is given outside of its group, such as `epochs`."""
        if isinstance(data, Mapping):
            leaves = {path.rpartition(".")[2] for path in option_paths()}
            fields = list(cls.model_fields)
            unknown = [str(name) for name in list(data)[:_MOST_NAMES] if name not in fields]
            wrong = [name for name in unknown if _close(name, leaves) and not _close(name, fields)]
            if wrong:
                raise ValidationError.from_exception_data(
                    cls.__name__, [_misplaced(name, data[name]) for name in wrong]
                )
        return data

    @field_validator("dataset")
    @classmethod
    def _check_names(cls, value: str | list[str]) -> list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or len(set(names)) != len(names):
            raise ValueError("expected one data set, or several different ones")
        for name in names:
            if not is_dataset_name(name):
                raise ValueError(f"{name!r} is not a valid name of a data set")
        return names

    @property
    def datasets(self) -> list[str]:
        return [self.dataset] if isinstance(self.dataset, str) else self.dataset

    def training_options(self, base: dict[str, Any] | None = None) -> TrainingOptions:
        """Return the options of `base`, or of the preset, overridden by those of this request.

        Raises ``invalid-request`` 422 naming the fields.
        """
        given = dict(preset_options(self.preset, self.task) if base is None else base)
        for name in _GROUPS:
            own = getattr(self, name)
            if own is not None:
                before = given.get(name, {})
                replaced = name == "head" and own.get("kind", "mlp") != before.get("kind", "mlp")
                given[name] = {"kind": "mlp", **own} if name == "head" and replaced else {**before, **own}
        if "head" in given:
            given["head"] = {"kind": "mlp", **given["head"]}
        for name in _SINGLE:
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        try:
            # As JSON, because strict validation then accepts lists for tuples but still no text for numbers.
            options = json.dumps({**given, "task": self.task})
            return TrainingOptions.model_validate_json(options, strict=True)
        except ValidationError as error:
            raise invalid_options(error) from error


class Description(BaseModel):
    """`PATCH /experiments/{id}`: what people call an experiment, and what they know of it."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, max_length=100)
    notes: str | None = Field(None, max_length=10_000)


class ExperimentRequest(Description, TrainingRequest):
    """`POST /experiments`."""

    k: StrictInt | None = Field(
        None, ge=2, le=50, description="divide the subjects into so many folds, instead of the data sets' own"
    )
    folds: list[StrictInt] | None = Field(None, min_length=1, description="folds to hold out; default all")
    warm_start: str | None = Field(
        None,
        description="id of an experiment on other data; training starts from the weights of its first fold",
    )
    search: str | None = Field(
        None, description="id of a finished search, whose best options replace those of the preset"
    )
    refit: bool = Field(
        False,
        description="also train on all faces, as `POST /experiments/{id}/refit` does later; a promotion then "
        "serves whichever is better out of fold",
    )


class ChosenBy(BaseModel):
    """The search that the options come from. The report states which metrics are independent of it."""

    search: str
    trial: int
    trials: int = Field(description="number of trials compared")
    datasets: list[str]
    held_out: list[int] = Field(description="folds that the search did not use")
    space: Space | None = None  # these four are absent from records of earlier releases
    image_set: str | None = None
    overlap: Overlap | None = None
    data_sha256: dict[str, str] | None = Field(
        None, description="data set → SHA-256 of its extracted file when the search was created"
    )
    shared_faces: int | None = Field(
        None,
        description="faces of this experiment in other data sets that the search used; null: not counted",
    )


class Experiment(Run):
    """experiment.json. Name and notes, `refit`, `promote` and `cancelled` change after it is created."""

    datasets: list[str]
    image_set: str = Field(validation_alias=AliasChoices("image_set", "variant"))
    space: Space
    folds: list[int]
    options: TrainingOptions
    preset: Preset
    chosen_by: ChosenBy | None = None
    warm_start: str | None = Field(None, validation_alias=AliasChoices("warm_start", "start_from"))
    refit: bool = False
    name: str | None = None
    notes: str | None = None
    k: int | None = None
    overlap: Overlap = "allow"  # for records of release 0.1.0, which did not check
    exclusiveness: dict[str, Any] | None = Field(
        None, description="what was checked at its creation, and what was found; null: nothing was checked"
    )
    warnings: list[str] = Field(default_factory=list)
    data_sha256: dict[str, str] | None = Field(
        None,
        description="data set → SHA-256 of its extracted file at the creation; null: an earlier release "
        "created it",
    )
    promote: bool = Field(False, description="serve the better heads once the refits are done")

    @computed_field(description="former name of `warm_start`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def start_from(self) -> str | None:
        return self.warm_start

    @computed_field(description="former name of `image_set`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def variant(self) -> str:
        return self.image_set

    @property
    def refits(self) -> list[int | None]:
        """Return the folds that the refits hold out; None, for training on all faces, comes last."""
        return [*self.folds, None] if self.refit else []


class WorkStatus(BaseModel):
    """Progress of the training of one ensemble."""

    state: State
    epoch: int = 0
    epochs: int = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    seconds_left: float | None = Field(None, description="estimate")
    attempts: int = 0
    worker: str | None = Field(None, description="host and process of the newest attempt")
    curve: list[tuple[int, float, float | None]] = Field(
        default_factory=list, description="epoch, training loss, validation loss; at most a hundred points"
    )
    problem: str | None = None


class FoldStatus(WorkStatus):
    fold: int


class RefitStatus(WorkStatus):
    """Training without a validation split, for as many epochs as were best with one."""

    fold: int | None = Field(description="the fold that is held out, for the comparison; null: none")


class ExperimentResults(BaseModel):
    """The most important figures of a finished experiment, out of fold."""

    age_error: float | None = Field(description="mean absolute error, years; null without an exact age")
    exact_faces: int | None = Field(None, description="number with an exact age; null in earlier reports")
    gender_accuracy: float | None = Field(description="share of right genders; null without a gender head")
    faces: int
    finished: datetime = Field(description="time of the report")


class ExperimentStatus(RunStatus):
    state: State
    name: str | None = None
    notes: str | None = None
    task: Objective
    datasets: list[str]
    space: Space
    seeds: int
    preset: Preset
    folds: list[FoldStatus]
    refits: list[RefitStatus] = Field(default_factory=list, description="empty unless `refit` was requested")
    promoted: dict[str, str] = Field(default_factory=dict, description="task → version, once promoted")
    served: list[str] = Field(
        default_factory=list, description="tasks for which the trainer serves its heads now"
    )
    results: ExperimentResults | None = Field(None, description="null until the report is written")
    warnings: list[str] = Field(
        default_factory=list, description="what to know about the folds and about what could not be checked"
    )


def experiment_dir(data_dir: Path, experiment_id: str) -> Path:
    """Return an experiment's folder. Raises ``not-found`` 404 for an id that could leave `experiments`."""
    if not NAME.fullmatch(experiment_id):
        raise not_found("experiment", experiment_id)
    return data_dir / "experiments" / experiment_id


def fold_dir(data_dir: Path, experiment_id: str, fold: int) -> Path:
    return experiment_dir(data_dir, experiment_id) / "folds" / str(fold)


def refit_dir(data_dir: Path, experiment_id: str, fold: int | None) -> Path:
    """Return the folder of the ensemble trained on all faces but those of `fold`; None: on all faces."""
    if fold is None:
        return experiment_dir(data_dir, experiment_id) / "final"
    return fold_dir(data_dir, experiment_id, fold) / "refit"


def merged_subjects(data_dir: Path, experiment: Experiment) -> Path | None:
    """Return the file of merged subjects or other folds, for `load_faces`; None without either."""
    regrouped = experiment.overlap == "merge" or experiment.k is not None
    return experiment_dir(data_dir, experiment.id) / MERGED if regrouped else None


def recorded_faces(data_dir: Path, experiment: Experiment) -> Path | None:
    """Return the file of `record_faces`, for `load_faces`; None if an earlier release did not write it."""
    return None if experiment.data_sha256 is None else experiment_dir(data_dir, experiment.id) / FACES


def is_finished(data_dir: Path, experiment: Experiment) -> bool:
    """Return whether the report exists, and the fit on all faces too if it was requested."""
    reported = (experiment_dir(data_dir, experiment.id) / REPORT).exists()
    final = refit_dir(data_dir, experiment.id, None)
    return reported and (not experiment.refit or (final / METRICS).exists())


def load_experiment(data_dir: Path, experiment_id: str) -> Experiment:
    """Read a record. Raises ``not-found`` 404 and ``unreadable-record`` 409."""
    path = experiment_dir(data_dir, experiment_id) / RECORD
    return load_record(path, Experiment, "experiment", experiment_id)


def save_experiment(data_dir: Path, experiment: Experiment) -> None:
    save_record(experiment_dir(data_dir, experiment.id) / RECORD, experiment)


def _misplaced(name: str, value: Any) -> InitErrorDetails:
    error = PydanticCustomError("misplaced_option", f"There is no option {nearest_option(name)}")
    return InitErrorDetails(type=error, loc=(name,), input=value)


def refused(field: str, detail: str) -> Problem:
    """Return ``invalid-request`` 422 for one field."""
    return Problem("invalid-request", 422, detail, errors=[{"field": field, "message": detail}])


def invalid_options(error: ValidationError, within: str = "") -> Problem:
    """Return ``invalid-request`` 422 that names the fields, prefixed by `within`, as the request has them."""
    described = []
    for one in error.errors():
        path = _field(one["loc"])
        unknown = one["type"] == "extra_forbidden"
        described.append({**one, "msg": f"There is no option {nearest_option(path)}"} if unknown else one)
    return validation_problem(described, field_name=lambda location: within + _field(location))


def nearest_option(path: str) -> str:
    """Return `'epoch'; did you mean 'optimizer.epochs'?` for an unknown option, or list its group's."""
    known = option_paths()
    group, _, own = path.rpartition(".")
    leaves = {option.rpartition(".")[2]: option for option in reversed(known)}
    near = [own] if own in leaves else _close(path, known) or _close(own, leaves)
    if near:
        return f"{path[:_SHOWN]!r}; did you mean {leaves.get(near[0], near[0])!r}?"
    return unknown_name(path, [option for option in known if option.rpartition(".")[0] == group])


def _close(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name[:_SHOWN], list(known), n=1)


@cache
def option_paths() -> tuple[str, ...]:
    """Return the paths of all options of training, such as `optimizer.epochs`."""
    groups: dict[str, tuple[type[BaseModel], ...]] = {
        "head": (Mlp, ResMlp),
        "optimizer": (OptimizerOptions,),
        "loss": (LossOptions,),
        "augmentation": (AugmentationOptions,),
    }
    nested = [
        f"{name}.{option}" for name, models in groups.items() for one in models for option in one.model_fields
    ]
    return (*dict.fromkeys(nested), *_SINGLE)


def _field(location: tuple[str | int, ...]) -> str:
    """Join a location without the kind of head, which pydantic puts between `head` and the field's name."""
    return ".".join(
        str(part) for index, part in enumerate(location) if not (index == 1 and part in ("mlp", "resmlp"))
    )
