"""Experiments as a kind of run: their steps and their status, from the files on disk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from agegender.files import why_not_writable

from trainer.experiments.experiment import (
    METRICS,
    PROMOTED,
    RECORD,
    Experiment,
    ExperimentResults,
    ExperimentStatus,
    FoldStatus,
    RefitStatus,
    WorkStatus,
    experiment_dir,
    fold_dir,
    is_finished,
    load_experiment,
    refit_dir,
    save_experiment,
)
from trainer.experiments.promote import awaits_promotion
from trainer.experiments.served import require_not_served, served_tasks
from trainer.runs.attempt import PROGRESS, clear_failure
from trainer.runs.run import FAILURE, REPORT, Kind, State, Step, folders_with, read_optional

TRAINING_SECONDS, REPORT_SECONDS = 24 * 3600, 3600


@dataclass(frozen=True)
class Experiments(Kind[Experiment, ExperimentStatus]):
    """The kind of run, with the jobs of its steps."""

    train_fold: Callable[[str, int], None]
    refit_fold: Callable[[str, int], None]
    fit_final: Callable[[str], None]
    write_report: Callable[[str], None]
    serve_better: Callable[[str], None]

    name: ClassVar[str] = "experiment"
    path: ClassVar[str] = "experiments"

    def names(self, data_dir: Path) -> list[str]:
        return folders_with(data_dir / "experiments", RECORD)

    def record_path(self, data_dir: Path, name: str) -> Path:
        return experiment_dir(data_dir, name) / RECORD

    def load(self, data_dir: Path, name: str) -> Experiment:
        return load_experiment(data_dir, name)

    def save(self, data_dir: Path, run: Experiment) -> None:
        save_experiment(data_dir, run)

    def steps(self, data_dir: Path, run: Experiment) -> Iterator[Step]:
        """Yield the missing folds, then the report, then the refits and the promotion if requested."""
        if run.cancelled or (experiment_dir(data_dir, run.id) / FAILURE).exists():
            return
        if not is_finished(data_dir, run):
            yield from self._missing(data_dir, run)
        elif awaits_promotion(data_dir, run):
            yield Step(f"{run.id}-promote", self.serve_better, (run.id,), REPORT_SECONDS)

    def _missing(self, data_dir: Path, run: Experiment) -> Iterator[Step]:
        folds = {fold: fold_dir(data_dir, run.id, fold) for fold in run.folds}
        for fold, directory in folds.items():
            if _is_open(directory):
                yield Step(f"{run.id}-fold-{fold}", self.train_fold, (run.id, fold), TRAINING_SECONDS)
        trained = [fold for fold, directory in folds.items() if (directory / METRICS).exists()]
        reported = (experiment_dir(data_dir, run.id) / REPORT).exists()
        if len(trained) == len(folds) and not reported:
            # Somebody waits for these seconds of work, so it goes before the refits of the first folds.
            yield Step(f"{run.id}-report", self.write_report, (run.id,), REPORT_SECONDS, first=True)
        if not run.refit:
            return
        refits = {fold: refit_dir(data_dir, run.id, fold) for fold in trained}
        for fold, directory in refits.items():
            if _is_open(directory):
                yield Step(f"{run.id}-refit-{fold}", self.refit_fold, (run.id, fold), TRAINING_SECONDS)
        compared = len(trained) == len(folds) and all((path / METRICS).exists() for path in refits.values())
        # The last fit renews the report, so the report comes first.
        if compared and reported and _is_open(refit_dir(data_dir, run.id, None)):
            yield Step(f"{run.id}-final", self.fit_final, (run.id,), TRAINING_SECONDS)

    def status(self, data_dir: Path, run: Experiment) -> ExperimentStatus:
        folds = [fold_status(data_dir, run, fold) for fold in run.folds]
        refits = [refit_status(data_dir, run, fold) for fold in run.refits]
        return ExperimentStatus(
            id=run.id,
            state=_state(data_dir, run, folds, refits),
            created=run.created,
            name=run.name,
            notes=run.notes,
            task=run.options.task,
            datasets=run.datasets,
            space=run.space,
            seeds=run.options.seeds,
            preset=run.preset,
            folds=folds,
            refits=refits,
            promoted=read_optional(experiment_dir(data_dir, run.id) / PROMOTED) or {},
            served=served_tasks(data_dir, run.id),
            results=_results(data_dir, run.id),
            warnings=run.warnings,
        )

    def cancelled(self, data_dir: Path, run: Experiment) -> Experiment:
        """If only refits are missing, drop these; the experiment is finished without them."""
        if not (experiment_dir(data_dir, run.id) / REPORT).exists():
            return super().cancelled(data_dir, run)
        return run.model_copy(update={"refit": False, "promote": False})

    def active_refit(self, data_dir: Path, name: str) -> Experiment | None:
        """Return an experiment as `active_run` does, None also if its refits are not requested any more."""
        experiment = self.active_run(data_dir, name)
        return experiment if experiment is not None and experiment.refit else None

    def clear_failures(self, data_dir: Path, run: Experiment) -> None:
        folds = [fold_dir(data_dir, run.id, fold) for fold in run.folds]
        refits = [refit_dir(data_dir, run.id, fold) for fold in run.refits]
        for directory in (experiment_dir(data_dir, run.id), *folds, *refits):
            clear_failure(directory)

    def require_unused(self, data_dir: Path, run: Experiment) -> None:
        """Raise ``experiment-served`` 409 if a head of the experiment is served now."""
        require_not_served(data_dir, run.id)


def fold_status(data_dir: Path, experiment: Experiment, fold: int) -> FoldStatus:
    work = _work_status(data_dir, experiment, fold_dir(data_dir, experiment.id, fold))
    return FoldStatus(fold=fold, **dict(work))


def refit_status(data_dir: Path, experiment: Experiment, fold: int | None) -> RefitStatus:
    work = _work_status(data_dir, experiment, refit_dir(data_dir, experiment.id, fold))
    return RefitStatus(fold=fold, **dict(work))


def _results(data_dir: Path, experiment_id: str) -> ExperimentResults | None:
    """Return the figures in the report, which is read again only after it has changed."""
    path = experiment_dir(data_dir, experiment_id) / REPORT
    try:
        return _results_in(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None


@lru_cache(maxsize=1024)
def _results_in(path: Path, changed: int) -> ExperimentResults | None:
    report = read_optional(path)
    if report is None:
        return None
    judged = report["out_of_fold"]
    return ExperimentResults(
        age_error=judged.get("age", {}).get("mae"),
        exact_faces=judged.get("age", {}).get("exact_faces"),
        gender_accuracy=judged.get("gender", {}).get("accuracy"),
        faces=sum(part["test"] for part in report["faces"].values()),
        finished=datetime.fromtimestamp(changed / 1e9, UTC),
    )


def _is_open(directory: Path) -> bool:
    return not (directory / METRICS).exists() and not (directory / FAILURE).exists()


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


def _state(
    data_dir: Path, experiment: Experiment, folds: list[FoldStatus], refits: list[RefitStatus]
) -> State:
    if is_finished(data_dir, experiment):
        return "finished"
    if experiment.cancelled:
        return "cancelled"
    # The fit on all faces waits for all the others, as the report waits for all folds.
    failed = (experiment_dir(data_dir, experiment.id) / FAILURE).exists()
    if failed or _is_stuck(folds) or _is_stuck(refits[:-1]) or _is_stuck(refits[-1:]):
        return "failed"
    return "queued" if {status.state for status in (*folds, *refits)} == {"queued"} else "running"


def _is_stuck(statuses: Sequence[WorkStatus]) -> bool:
    states = {status.state for status in statuses}
    return "failed" in states and not states & {"queued", "running"}
