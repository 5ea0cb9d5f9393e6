"""The files of searches."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from agegender.errors import not_found
from agegender.files import read_json, write_json
from agegender.spaces import NAME

from trainer.experiments.experiment import State
from trainer.experiments.store import FAILURE, MERGED, PROGRESS, REPORT, new_id, read_optional
from trainer.searches.search import Best, Search, SearchStatus, Trial, TrialResult, TrialStatus

PREFIX = "search-"  # so that an id tells what it is of
TRIAL, RESULT = "trial.json", "result.json"


def new_search_id(idempotency_key: str | None) -> str:
    return PREFIX + new_id(idempotency_key)


def search_dir(data_dir: Path, search_id: str) -> Path:
    """Raises ``not-found`` 404 for a name that could leave the folder of searches."""
    if not NAME.fullmatch(search_id):
        raise not_found("search", search_id)
    return data_dir / "searches" / search_id


def merged_search_subjects(data_dir: Path, search: Search) -> Path | None:
    """Where its merged subjects are, for `load_faces`; None if none were merged."""
    return search_dir(data_dir, search.id) / MERGED if search.overlap == "merge" else None


def trial_dir(data_dir: Path, search_id: str, trial: int) -> Path:
    return search_dir(data_dir, search_id) / "trials" / str(trial)


def save_search(data_dir: Path, search: Search) -> None:
    write_json(search_dir(data_dir, search.id) / "search.json", search.model_dump(mode="json"))


def load_search(data_dir: Path, search_id: str) -> Search:
    """Raises ``not-found`` 404."""
    try:
        return Search.model_validate(read_json(search_dir(data_dir, search_id) / "search.json"))
    except FileNotFoundError as error:
        raise not_found("search", search_id) from error


def searches(data_dir: Path) -> Iterator[Search]:
    """Newest first."""
    paths = (data_dir / "searches").glob("*/search.json")
    found = [load_search(data_dir, path.parent.name) for path in paths]
    yield from sorted(found, key=lambda search: search.created, reverse=True)


def delete_search(data_dir: Path, search_id: str) -> None:
    """search.json goes first: without it there is no search, however much was deleted yet."""
    directory = search_dir(data_dir, search_id)
    (directory / "search.json").unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def read_trial(directory: Path) -> Trial | None:
    found = read_optional(directory / TRIAL)
    return None if found is None else Trial.model_validate(found)


def read_result(directory: Path) -> TrialResult | None:
    found = read_optional(directory / RESULT)
    return None if found is None else TrialResult.model_validate(found)


def trial_status(data_dir: Path, search: Search, number: int) -> TrialStatus:
    directory = trial_dir(data_dir, search.id, number)
    progress = read_optional(directory / PROGRESS) or {}
    trial, result = read_trial(directory), read_result(directory)
    known = {name: progress[name] for name in ("epoch", "epochs", "attempts") if name in progress}
    values = {} if trial is None else trial.values
    if result is not None:
        return TrialStatus(trial=number, values=values, **known, **result.model_dump())
    state = "cancelled" if search.cancelled else "running" if progress else "queued"
    return TrialStatus(trial=number, state=state, values=values, **known)


def search_status(data_dir: Path, search: Search) -> SearchStatus:
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


def _state(search: Search, trials: list[TrialStatus], reported: bool, failed: bool) -> State:
    if reported:
        return "finished"
    if search.cancelled:
        return "cancelled"
    if failed:
        return "failed"
    return "queued" if {trial.state for trial in trials} == {"queued"} else "running"


def best_of(search: Search, trials: list[TrialStatus]) -> Best | None:
    """Of trials that are equally good, the first."""
    judged = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    if not judged:
        return None
    sign = -1 if search.maximises else 1
    best = min(judged, key=lambda trial: sign * (trial.value or 0.0))
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
            "variant": search.variant,
        },
    )
