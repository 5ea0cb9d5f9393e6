"""The files of experiments."""

import hashlib
import secrets
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from agegender.errors import not_found
from agegender.files import read_json, why_not_writable, write_json
from agegender.spaces import NAME

from trainer.experiments.experiment import (
    Experiment,
    ExperimentStatus,
    FoldStatus,
    RefitStatus,
    State,
    WorkStatus,
)
from trainer.records import load_record, readable, record_folders

RECORD = "experiment.json"
METRICS, PROGRESS, FAILURE = "metrics.json", "progress.json", "failure.json"
BANK, OUT_OF_FOLD, CHECKPOINT = "bank.safetensors", "out-of-fold.npz", "checkpoint.safetensors"
REPORT, PROMOTED = "report.json", "promoted.json"
MERGED = "merged-subjects.npz"


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


def merged_subjects(data_dir: Path, experiment: Experiment) -> Path | None:
    """Where its merged subjects are, for `load_faces`; None if none were merged."""
    return experiment_dir(data_dir, experiment.id) / MERGED if experiment.overlap == "merge" else None


def fold_dir(data_dir: Path, experiment_id: str, fold: int) -> Path:
    return experiment_dir(data_dir, experiment_id) / "folds" / str(fold)


def refit_dir(data_dir: Path, experiment_id: str, fold: int | None) -> Path:
    """Of the bank that is trained on all faces but those of `fold`; None: on all."""
    if fold is None:
        return experiment_dir(data_dir, experiment_id) / "final"
    return fold_dir(data_dir, experiment_id, fold) / "refit"


def work_dirs(data_dir: Path, experiment: Experiment) -> list[Path]:
    """Of all its banks; the last file of each is METRICS, or FAILURE."""
    return [fold_dir(data_dir, experiment.id, fold) for fold in experiment.folds] + [
        refit_dir(data_dir, experiment.id, fold) for fold in experiment.refits
    ]


def is_finished(data_dir: Path, experiment: Experiment) -> bool:
    """The report is there, and what was wanted besides."""
    final = refit_dir(data_dir, experiment.id, None)
    reported = (experiment_dir(data_dir, experiment.id) / REPORT).exists()
    return reported and (not experiment.refit or (final / METRICS).exists())


def save_experiment(data_dir: Path, experiment: Experiment) -> None:
    path = experiment_dir(data_dir, experiment.id) / RECORD
    write_json(path, experiment.model_dump(mode="json"))


def load_experiment(data_dir: Path, experiment_id: str) -> Experiment:
    """Raises ``not-found`` 404, and ``unreadable-record`` 409."""
    path = experiment_dir(data_dir, experiment_id) / RECORD
    return load_record(path, Experiment, "experiment")


def experiments(data_dir: Path) -> list[Experiment]:
    """All that can be read, newest first."""
    found = readable(_folders(data_dir), partial(load_experiment, data_dir))
    return sorted(found, key=lambda experiment: experiment.created, reverse=True)


def experiment_statuses(data_dir: Path) -> list[ExperimentStatus]:
    """Of all experiments whose files can be read, newest first."""
    found = readable(_folders(data_dir), partial(_loaded_status, data_dir))
    return sorted(found, key=lambda status: status.created, reverse=True)


def _folders(data_dir: Path) -> list[Path]:
    return record_folders(data_dir / "experiments", RECORD)


def _loaded_status(data_dir: Path, experiment_id: str) -> ExperimentStatus:
    return experiment_status(data_dir, load_experiment(data_dir, experiment_id))


def delete_experiment(data_dir: Path, experiment_id: str) -> None:
    """The record goes first: without it there is no experiment, however much was deleted yet."""
    directory = experiment_dir(data_dir, experiment_id)
    (directory / RECORD).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def read_optional(path: Path) -> Any:
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return None


def fold_status(data_dir: Path, experiment: Experiment, fold: int) -> FoldStatus:
    work = _work_status(data_dir, experiment, fold_dir(data_dir, experiment.id, fold))
    return FoldStatus(fold=fold, **dict(work))


def refit_status(data_dir: Path, experiment: Experiment, fold: int | None) -> RefitStatus:
    work = _work_status(data_dir, experiment, refit_dir(data_dir, experiment.id, fold))
    return RefitStatus(fold=fold, **dict(work))


def _work_status(data_dir: Path, experiment: Experiment, directory: Path) -> WorkStatus:
    progress = read_optional(directory / PROGRESS) or {}
    if (directory / METRICS).exists():
        return WorkStatus(state="finished", **{**progress, "seconds_left": 0.0})
    failure = read_optional(directory / FAILURE)
    if failure is not None:
        return WorkStatus(state="failed", problem=str(failure.get("detail")), **progress)
    if experiment.cancelled:
        return WorkStatus(state="cancelled", **progress)
    state: State = "running" if progress else "queued"
    return WorkStatus(state=state, problem=why_not_writable(data_dir), **progress)


def experiment_status(data_dir: Path, experiment: Experiment) -> ExperimentStatus:
    folds = [fold_status(data_dir, experiment, fold) for fold in experiment.folds]
    refits = [refit_status(data_dir, experiment, fold) for fold in experiment.refits]
    directory = experiment_dir(data_dir, experiment.id)
    return ExperimentStatus(
        id=experiment.id,
        state=_state(data_dir, experiment, folds, refits),
        created=experiment.created,
        task=experiment.options.task,
        datasets=experiment.datasets,
        space=experiment.space,
        seeds=experiment.options.seeds,
        preset=experiment.preset,
        folds=folds,
        refits=refits,
        promoted=read_optional(directory / PROMOTED) or {},
        warnings=experiment.warnings,
    )


def _state(
    data_dir: Path, experiment: Experiment, folds: list[FoldStatus], refits: list[RefitStatus]
) -> State:
    if is_finished(data_dir, experiment):
        return "finished"
    if experiment.cancelled:
        return "cancelled"
    # The bank on all faces waits for all the others, as the report waits for all folds.
    failed = (experiment_dir(data_dir, experiment.id) / FAILURE).exists()
    if failed or _stuck(folds) or _stuck(refits[:-1]) or _stuck(refits[-1:]):
        return "failed"
    return "queued" if {status.state for status in (*folds, *refits)} == {"queued"} else "running"


def _stuck(statuses: Sequence[WorkStatus]) -> bool:
    states = {status.state for status in statuses}
    return "failed" in states and not states & {"queued", "running"}
