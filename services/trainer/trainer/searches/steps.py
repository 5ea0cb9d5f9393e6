"""Searches as a kind of run: their steps, their status and their best trial, from the files on disk."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from agegender.errors import Problem

from trainer.datasets.embedding_set import FaceLabels
from trainer.datasets.exclusiveness import shared_faces
from trainer.experiments.experiment import ChosenBy, refused
from trainer.experiments.experiment_data import load_label_sets
from trainer.experiments.steps import REPORT_SECONDS, TRAINING_SECONDS
from trainer.runs.attempt import PROGRESS, clear_failure, renew_attempts
from trainer.runs.run import Kind, State, Step
from trainer.runs.store import FAILURE, REPORT, folders_with, read_optional
from trainer.searches.search import (
    RECORD,
    RESULT,
    Best,
    Search,
    SearchStatus,
    TrialStatus,
    load_search,
    read_result,
    read_trial,
    save_search,
    search_dir,
    trial_dir,
)

_OWN_OPTIONS = ("seed", "seeds")  # of a trial; an experiment has its own


@dataclass(frozen=True)
class Searches(Kind[Search, SearchStatus]):
    """The kind of run, with the jobs of its steps."""

    run_trial: Callable[[str, int], None]
    write_report: Callable[[str], None]

    name: ClassVar[str] = "search"
    article: ClassVar[str] = "a"
    path: ClassVar[str] = "searches"

    def names(self, data_dir: Path) -> list[str]:
        return folders_with(data_dir / "searches", RECORD)

    def record_path(self, data_dir: Path, name: str) -> Path:
        return search_dir(data_dir, name) / RECORD

    def load(self, data_dir: Path, name: str) -> Search:
        return load_search(data_dir, name)

    def save(self, data_dir: Path, run: Search) -> None:
        save_search(data_dir, run)

    def steps(self, data_dir: Path, run: Search) -> Iterator[Step]:
        """Yield the missing trials, then the report."""
        directory = search_dir(data_dir, run.id)
        if run.cancelled or (directory / REPORT).exists() or (directory / FAILURE).exists():
            return
        missing = [
            number
            for number in range(run.trials)
            if not (trial_dir(data_dir, run.id, number) / RESULT).exists()
        ]
        for number in missing:
            yield Step(f"{run.id}-trial-{number}", self.run_trial, (run.id, number), TRAINING_SECONDS)
        if not missing:
            yield Step(f"{run.id}-report", self.write_report, (run.id,), REPORT_SECONDS)

    def status(self, data_dir: Path, run: Search) -> SearchStatus:
        return search_status(data_dir, run)

    def clear_failures(self, data_dir: Path, run: Search) -> None:
        for number in range(run.trials):
            directory = trial_dir(data_dir, run.id, number)
            result = read_result(directory)
            if result is not None and result.state == "failed":
                (directory / RESULT).unlink(missing_ok=True)
                renew_attempts(directory)
        clear_failure(search_dir(data_dir, run.id))


def search_status(data_dir: Path, search: Search) -> SearchStatus:
    """Return how far a search is, trial by trial."""
    trials = [trial_status(data_dir, search, number) for number in range(search.trials)]
    directory = search_dir(data_dir, search.id)
    failure = read_optional(directory / FAILURE) or {}
    return SearchStatus(
        id=search.id,
        state=_state(search, trials, (directory / REPORT).exists(), bool(failure)),
        created=search.created,
        task=search.options.task,
        datasets=search.datasets,
        space=search.space,
        preset=search.preset,
        goal=search.goal,
        folds=search.folds,
        held_out=search.held_out,
        trials=trials,
        best=best_of(search, trials),
        warnings=search.warnings,
        problem=failure.get("detail"),
    )


def trial_status(data_dir: Path, search: Search, number: int) -> TrialStatus:
    """Return how far a trial is."""
    directory = trial_dir(data_dir, search.id, number)
    progress = read_optional(directory / PROGRESS) or {}
    trial, result = read_trial(directory), read_result(directory)
    known = {name: progress[name] for name in ("epoch", "epochs", "attempts") if name in progress}
    values = {} if trial is None else trial.values
    if result is not None:
        return TrialStatus(trial=number, values=values, **known, **result.model_dump())
    state = "cancelled" if search.cancelled else "running" if progress else "queued"
    return TrialStatus(trial=number, state=state, values=values, **known)


def best_of(search: Search, trials: list[TrialStatus]) -> Best | None:
    """Return the best trial, the first of several that are equally good; None if none is finished."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    if not finished:
        return None
    sign = -1 if search.maximises else 1
    best = min(finished, key=lambda trial: sign * (trial.value or 0.0))
    return Best(
        trial=best.trial,
        value=best.value or 0.0,
        values=best.values,
        metrics=best.metrics,
        experiment={
            "search": search.id,
            "task": search.options.task,
            "dataset": search.datasets,
            "space": search.space.id,
            "image_set": search.image_set,
        },
    )


def best_options(data_dir: Path, search_id: str) -> tuple[dict[str, Any], ChosenBy]:
    """Return the options of the best trial, for `TrainingRequest.training_options`, and where they come from.

    Raises ``invalid-request`` 422 if there is no such search or it is not finished.
    """
    try:
        search = load_search(data_dir, search_id)
    except Problem as problem:
        raise refused("search", problem.detail) from problem
    status = search_status(data_dir, search)
    if status.state != "finished" or status.best is None:
        raise refused("search", f"Search {search_id} is {status.state}; wait until it is finished.")
    trial = read_trial(trial_dir(data_dir, search_id, status.best.trial))
    if trial is None:
        raise refused("search", f"The file of trial {status.best.trial} of search {search_id} is missing.")
    options = trial.options.model_dump(mode="json", exclude=set(_OWN_OPTIONS))
    compared = sum(one.state in ("finished", "pruned") for one in status.trials)
    return options, ChosenBy(
        search=search_id,
        trial=status.best.trial,
        trials=compared,
        datasets=search.datasets,
        held_out=search.held_out,
    )


def faces_seen_by_search(data_dir: Path, chosen_by: ChosenBy, sets: Mapping[str, FaceLabels]) -> int | None:
    """Count the faces of `sets` that the search has in other data sets; None if these cannot be read.

    Data sets that both name are left to the report, which knows the held-out folds.
    """
    search = load_search(data_dir, chosen_by.search)
    try:
        seen = load_label_sets(data_dir, search.datasets, search.space, search.image_set)
    except Problem:
        return None
    others = {name: faces for name, faces in seen.items() if name not in sets}
    if not all(faces.has_hashes for faces in (*others.values(), *sets.values())):
        return None if others else 0
    return shared_faces(others, sets)[0]


def _state(search: Search, trials: list[TrialStatus], reported: bool, failed: bool) -> State:
    if reported:
        return "finished"
    if search.cancelled:
        return "cancelled"
    if failed:
        return "failed"
    return "queued" if {trial.state for trial in trials} == {"queued"} else "running"
