"""The files of experiments."""

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agegender.errors import not_found
from agegender.files import read_json, write_json
from agegender.spaces import NAME
from agegender.volume import why_not_writable

from trainer.experiments.experiment import Experiment, ExperimentStatus, FoldStatus, State

METRICS, PROGRESS, FAILURE, REPORT = "metrics.json", "progress.json", "failure.json", "report.json"


def new_id(idempotency_key: str | None) -> str:
    """The same key always gives the same id, so that a repeated request makes no second experiment."""
    if idempotency_key is not None:
        return "key-" + hashlib.sha256(idempotency_key.encode()).hexdigest()[:16]
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def experiment_dir(data_dir: Path, experiment_id: str) -> Path:
    """Raises ``not-found`` 404 for a name that could leave the folder of experiments."""
    if not NAME.fullmatch(experiment_id):
        raise not_found("experiment", experiment_id)
    return data_dir / "experiments" / experiment_id


def fold_dir(data_dir: Path, experiment_id: str, fold: int) -> Path:
    return experiment_dir(data_dir, experiment_id) / "folds" / str(fold)


def save_experiment(data_dir: Path, experiment: Experiment) -> None:
    path = experiment_dir(data_dir, experiment.id) / "experiment.json"
    write_json(path, experiment.model_dump(mode="json"))


def load_experiment(data_dir: Path, experiment_id: str) -> Experiment:
    """Raises ``not-found`` 404."""
    try:
        path = experiment_dir(data_dir, experiment_id) / "experiment.json"
        return Experiment.model_validate(read_json(path))
    except FileNotFoundError as error:
        raise not_found("experiment", experiment_id) from error


def experiments(data_dir: Path) -> Iterator[Experiment]:
    """Newest first."""
    found = [load_experiment(data_dir, path.parent.name) for path in _records(data_dir)]
    yield from sorted(found, key=lambda experiment: experiment.created, reverse=True)


def _records(data_dir: Path) -> Iterator[Path]:
    yield from (data_dir / "experiments").glob("*/experiment.json")


def delete_experiment(data_dir: Path, experiment_id: str) -> None:
    """experiment.json goes first: without it there is no experiment, however much was deleted yet."""
    directory = experiment_dir(data_dir, experiment_id)
    (directory / "experiment.json").unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def read_optional(path: Path) -> Any:
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return None


def fold_status(data_dir: Path, experiment: Experiment, fold: int) -> FoldStatus:
    directory = fold_dir(data_dir, experiment.id, fold)
    progress = read_optional(directory / PROGRESS) or {}
    if (directory / METRICS).exists():
        return FoldStatus(fold=fold, state="finished", **{**progress, "seconds_left": 0.0})
    failure = read_optional(directory / FAILURE)
    if failure is not None:
        return FoldStatus(fold=fold, state="failed", problem=str(failure.get("detail")), **progress)
    if experiment.cancelled:
        return FoldStatus(fold=fold, state="cancelled", **progress)
    state: State = "running" if progress else "queued"
    return FoldStatus(fold=fold, state=state, problem=why_not_writable(data_dir), **progress)


def experiment_status(data_dir: Path, experiment: Experiment) -> ExperimentStatus:
    folds = [fold_status(data_dir, experiment, fold) for fold in experiment.folds]
    directory = experiment_dir(data_dir, experiment.id)
    return ExperimentStatus(
        id=experiment.id,
        state=_state(experiment, folds, (directory / REPORT).exists(), (directory / FAILURE).exists()),
        created=experiment.created,
        task=experiment.options.task,
        datasets=experiment.datasets,
        space=experiment.space,
        seeds=experiment.options.seeds,
        preset=experiment.preset,
        folds=folds,
        promoted=read_optional(directory / "promoted.json") or {},
    )


def _state(experiment: Experiment, folds: list[FoldStatus], reported: bool, failed: bool) -> State:
    if reported:
        return "finished"
    if experiment.cancelled:
        return "cancelled"
    states = {status.state for status in folds}
    if failed or ("failed" in states and not states & {"queued", "running"}):
        return "failed"
    return "queued" if states == {"queued"} else "running"
