"""An evaluation as a kind of run: the request, its record `evaluations/<id>/evaluation.json`, its status.

It judges the heads of one space on a labelled data set. A calibration is an evaluation that also refits
temperature and intervals on these faces, as new versions of the heads.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import structlog
from agegender.errors import not_found
from agegender.heads.head import Task
from agegender.spaces import NAME, Space
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector
from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator

from trainer.datasets.embedding_set import FaceLabels, is_dataset_name
from trainer.datasets.folds import K, groups_of
from trainer.experiments.served import CALIBRATED, SERVED, served_version
from trainer.experiments.steps import REPORT_SECONDS
from trainer.runs.attempt import PROGRESS, clear_failure
from trainer.runs.run import (
    FAILURE,
    REPORT,
    Kind,
    Run,
    RunStatus,
    State,
    Step,
    folders_with,
    load_record,
    new_id,
    read_optional,
    save_record,
)

log = structlog.get_logger(__name__)

RECORD, RESULT, CALIBRATION = "evaluation.json", "result.json", "promoted.json"
LEAST_FACES = 50  # with a known label, for a calibration


class EvaluationRequest(BaseModel):
    """`POST /evaluations`."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field(description="an extracted data set whose labels are the truth")
    head: str = Field(
        SERVED, description="`served`, or the id of a finished experiment or of a calibration", max_length=200
    )
    space: str | None = Field(None, description="id of the embedding space, if there are several")
    image_set: str | None = Field(None, description="folder of images, if there are several")
    calibrate: StrictBool = Field(
        False,
        description=f"also refit temperature and intervals on these faces, at least {LEAST_FACES}, as new "
        "versions of the heads, which `POST /evaluations/{id}/promote` serves",
    )

    @field_validator("dataset")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not is_dataset_name(value):
            raise ValueError(f"{value!r} is not a valid name of a data set")
        return value


class Evaluation(Run):
    """evaluation.json. Only `cancelled` changes after it is created."""

    dataset: str
    image_set: str
    space: Space
    head: str
    versions: dict[Task, str] = Field(description="of the heads that are judged")
    calibrate: bool = False
    data_sha256: dict[str, str] | None = Field(
        None, description="data set → SHA-256 of its extracted file at the creation"
    )
    warnings: list[str] = Field(default_factory=list)


class TaskResult(BaseModel):
    """The main figures of one task; the report has all of them."""

    version: str = Field(description="of the head that was judged")
    faces: int = Field(description="number with a known label")
    exact_faces: int | None = Field(None, description="number with an exact age; null for a gender")
    mae: float | None = Field(None, description="mean absolute error of the age in years, on exact ages")
    accuracy: float | None = Field(None, description="of the gender")
    group_accuracy: float | None = Field(None, description="of Adience's age groups")
    coverage: float | None = Field(None, description="share of ages within their 90 % interval")
    stated_coverage: float | None = None
    coverage_upper: float | None = Field(
        None, description="upper end of the coverage's 95 % confidence interval (Wilson)"
    )
    coverage_after: float | None = Field(
        None, description="coverage after the calibration, by cross-validation; null without one"
    )
    new_version: str | None = Field(None, description="version of the calibrated head")


class EvaluationStatus(RunStatus):
    state: State
    dataset: str
    image_set: str
    space: Space
    head: str
    versions: dict[Task, str]
    calibrate: bool
    results: dict[Task, TaskResult] = Field(default_factory=dict, description="once finished")
    recommendation: list[str] = Field(default_factory=list, description="what to do, in plain words")
    promoted: dict[str, str] = Field(default_factory=dict, description="task → version, once promoted")
    warnings: list[str] = Field(default_factory=list)
    problem: str | None = None


class Result(BaseModel):
    """result.json, written before the report."""

    results: dict[Task, TaskResult]
    recommendation: list[str]


@dataclass(frozen=True)
class Evaluations(Kind[Evaluation, EvaluationStatus]):
    """The kind of run, with its only job."""

    judge: Callable[[str], None]

    name: ClassVar[str] = "evaluation"
    path: ClassVar[str] = "evaluations"

    def names(self, data_dir: Path) -> list[str]:
        return folders_with(data_dir / "evaluations", RECORD)

    def record_path(self, data_dir: Path, name: str) -> Path:
        return evaluation_dir(data_dir, name) / RECORD

    def load(self, data_dir: Path, name: str) -> Evaluation:
        return load_record(self.record_path(data_dir, name), Evaluation, self.name, name)

    def save(self, data_dir: Path, run: Evaluation) -> None:
        save_record(self.record_path(data_dir, run.id), run)

    def steps(self, data_dir: Path, run: Evaluation) -> Iterator[Step]:
        directory = evaluation_dir(data_dir, run.id)
        if run.cancelled or (directory / REPORT).exists() or (directory / FAILURE).exists():
            return
        yield Step(f"{run.id}-judge", self.judge, (run.id,), REPORT_SECONDS)

    def status(self, data_dir: Path, run: Evaluation) -> EvaluationStatus:
        directory = evaluation_dir(data_dir, run.id)
        failure = read_optional(directory / FAILURE)
        state: State = "running" if (directory / PROGRESS).exists() else "queued"
        found = None
        if (directory / REPORT).exists():
            state, found = "finished", read_optional(directory / RESULT)
        elif run.cancelled:
            state = "cancelled"
        elif failure is not None:
            state = "failed"
        result = Result(results={}, recommendation=[]) if found is None else Result.model_validate(found)
        return EvaluationStatus(
            **run.model_dump(exclude={"format", "cancelled", "data_sha256"}),
            state=state,
            **dict(result),
            promoted=read_optional(directory / CALIBRATION) or {},
            problem=None if failure is None else str(failure.get("detail")),
        )

    def clear_failures(self, data_dir: Path, run: Evaluation) -> None:
        clear_failure(evaluation_dir(data_dir, run.id))


def new_evaluation_id(idempotency_key: str | None) -> str:
    return CALIBRATED + new_id(idempotency_key)


def evaluation_dir(data_dir: Path, evaluation_id: str) -> Path:
    """Return an evaluation's folder. Raises ``not-found`` 404 for an id that could leave `evaluations`."""
    if not NAME.fullmatch(evaluation_id):
        raise not_found("evaluation", evaluation_id)
    return data_dir / "evaluations" / evaluation_id


def known(faces: FaceLabels, task: Task) -> npt.NDArray[np.bool_]:
    """Return which faces have a label for a task [faces]."""
    return faces.has_age if task is Task.AGE else faces.has_gender


def why_not_calibrated(faces: FaceLabels, task: Task) -> str | None:
    """Return why a task has too few labelled faces or subjects for a calibration; None if it has enough."""
    labelled = known(faces, task)
    count, subjects = int(labelled.sum()), len(np.unique(groups_of(faces.subject[labelled])))
    if count >= LEAST_FACES and subjects >= K:
        return None
    return (
        f"A calibration of {task.value} needs at least {LEAST_FACES} faces of known {task.value}, of at "
        f"least {K} subjects; the data set has {count} faces of {subjects} subjects. Label more faces."
    )


class CoverageCollector(Collector):
    """Collect the coverage of the served age intervals on each data set, by its newest evaluation.

    Evaluations of heads that are not served any more are omitted.
    """

    def __init__(self, evaluations: Evaluations, data_dir: Path, shipped: Path) -> None:
        self._evaluations = evaluations
        self._data_dir = data_dir
        self._shipped = shipped

    def describe(self) -> list[Metric]:
        return [*_coverage_metrics()]

    def collect(self) -> Iterator[Metric]:
        newest: dict[tuple[str, str], tuple[Evaluation, TaskResult]] = {}
        for name in self._evaluations.names(self._data_dir):
            try:
                found = self._result(name)
            except Exception as error:  # a damaged file must not hide the other metrics
                log.warning("evaluation not measured", evaluation=name, error=str(error))
                continue
            if found is not None:
                key = (found[0].dataset, found[0].space.id)
                if key not in newest or newest[key][0].created < found[0].created:
                    newest[key] = found
        families = _coverage_metrics()
        for key, (_, result) in newest.items():
            values = (result.coverage, result.coverage_upper, result.stated_coverage, result.faces)
            for family, value in zip(families, values, strict=True):
                if value is not None:
                    family.add_metric([*key], value)
        yield from families

    def _result(self, name: str) -> tuple[Evaluation, TaskResult] | None:
        """Return an evaluation with its result for the age head, None if that is not served."""
        path = evaluation_dir(self._data_dir, name)
        stored: dict[str, Any] | None = read_optional(path / RESULT)
        if stored is None or not (path / REPORT).exists():
            return None
        run = self._evaluations.load(self._data_dir, name)
        result = Result.model_validate(stored).results.get(Task.AGE)
        if result is None or result.coverage is None:
            return None
        current = served_version(self._data_dir, self._shipped, Task.AGE, run.space)
        return (run, result) if result.version == current else None


def watch_coverage(evaluations: Evaluations, data_dir: Path, shipped: Path) -> CoverageCollector:
    """Register the metrics of `CoverageCollector` until it is unregistered."""
    collector = CoverageCollector(evaluations, data_dir, shipped)
    REGISTRY.register(collector)
    return collector


def _coverage_metrics() -> tuple[GaugeMetricFamily, ...]:
    labels = ["data_set", "space"]
    return (
        GaugeMetricFamily(
            "trainer_evaluation_coverage", "Share of ages within the served interval", labels=labels
        ),
        GaugeMetricFamily(
            "trainer_evaluation_coverage_upper", "Upper end of its 95 % confidence interval", labels=labels
        ),
        GaugeMetricFamily(
            "trainer_evaluation_stated_coverage", "Coverage that the interval states", labels=labels
        ),
        GaugeMetricFamily("trainer_evaluation_faces", "Faces of known age in the evaluation", labels=labels),
    )
