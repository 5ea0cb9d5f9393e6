"""Evaluate trials by cross-validation within the folds that a search may use, and report on them.

The faces are divided into inner folds that share no subject. Each is predicted by an ensemble that was
trained on the others, with early stopping on a share of those, so neither training nor stopping sees the test
faces.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from agegender.files import write_json, write_text
from agegender.heads.head import Task, over_years
from matplotlib.axes import Axes
from optuna.trial import TrialState

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.folds import groups_of, strata_of, validation_split
from trainer.evaluation import age_metrics, gender_metrics, member_probabilities
from trainer.reports.contents import Table, drawn, number
from trainer.reports.report import as_page, table_lines
from trainer.runs.attempt import Attempt
from trainer.runs.run import REPORT, read_optional, save_record
from trainer.searches.search import (
    RESULT,
    TRIAL,
    Search,
    SearchStatus,
    Trial,
    TrialResult,
    TrialStatus,
    begun_numbers,
    options_with,
    read_trial,
    search_dir,
    searched_faces,
    trial_dir,
    values_of,
)
from trainer.searches.study import Study, search_status
from trainer.training.bank import TrainingDevice
from trainer.training.config import EpochReport, TrainingOptions
from trainer.training.train import TrainedBank, derived_seed, train_bank

_GOALS = {"mae": "age mae", "group-accuracy": "age group_accuracy", "gender-accuracy": "gender accuracy"}


def run_trial(
    data_dir: Path,
    search: Search,
    number: int,
    faces: EmbeddingSet,
    attempt: Attempt,
    device: TrainingDevice,
) -> None:
    """Evaluate trial `number`, or resume it; result.json, written last, marks it as over.

    Raises `GivenUp` if the attempt must stop.
    """
    directory = trial_dir(data_dir, search.id, number)
    study = Study(search_dir(data_dir, search.id), search, number)
    trial = read_trial(directory) or _begin(data_dir, study, search, number)
    selected, fold_of = searched_faces(faces, search)
    scores: list[dict[str, float]] = []
    for fold in range(search.inner_folds):
        path = directory / f"part-{fold}.json"  # the name in release 0.1.0, whose searches resume
        score = read_optional(path)
        if score is None:
            checkpoint = directory / f"part-{fold}.safetensors"
            score = _evaluate(
                selected,
                fold_of == fold,
                trial.options,
                fold,
                search.inner_folds,
                checkpoint,
                attempt,
                device,
            )
            attempt.check()
            write_json(path, score)
            checkpoint.unlink(missing_ok=True)
        scores.append(score)
        value = float(np.mean([goal_value(search, one) for one in scores]))
        if study.is_worse(trial.number, fold, value) and fold + 1 < search.inner_folds:
            study.end(trial.number, value, TrialState.PRUNED)
            _write_result(directory, "pruned", value, scores)
            return
    study.end(trial.number, value, TrialState.COMPLETE)
    _write_result(directory, "finished", value, scores)


def fail_trial(data_dir: Path, search: Search, number: int, problem: str) -> None:
    """Store that a trial failed; the search continues without it."""
    directory = trial_dir(data_dir, search.id, number)
    trial = read_trial(directory)
    if trial is not None:
        Study(search_dir(data_dir, search.id), search, number).end(trial.number, None, TrialState.FAIL)
    save_record(directory / RESULT, TrialResult(state="failed", problem=problem))


def goal_value(search: Search, score: dict[str, float]) -> float:
    """Return the metric that the search optimises."""
    if search.goal == "nll":
        return sum(value for name, value in score.items() if name.endswith(" nll"))
    return score[_GOALS[search.goal]]


def _begin(data_dir: Path, study: Study, search: Search, number: int) -> Trial:
    # Every trial has its own seeds, so that a setting cannot stay ahead by the luck of one seed.
    seed = derived_seed(search.options.seed, number) % 2**31
    with study.beginning():
        study.fail_dead(begun_numbers(data_dir, search))
        optuna_number, drawn = study.ask()
        values = values_of(search.parameters, drawn)
        options = options_with(search.options, {**values, "seed": seed})
        trial = Trial(number=optuna_number, values=values, options=options)
        save_record(trial_dir(data_dir, search.id, number) / TRIAL, trial)
    return trial


def _evaluate(
    faces: EmbeddingSet,
    is_test: np.ndarray,
    options: TrainingOptions,
    fold: int,
    folds: int,
    checkpoint: Path,
    attempt: Attempt,
    device: TrainingDevice,
) -> dict[str, float]:
    """Train on the other folds and return the ensemble's metrics on the test faces."""
    others = faces.rows(np.flatnonzero(~is_test))
    stops = validation_split(
        strata_of(others.age_low, others.age_high, others.gender),
        groups_of(others.subject),
        options.validation,
        seed=fold,
    )

    def report(epoch: EpochReport) -> None:
        """Count epochs over all folds."""
        epochs = options.optimizer.epochs
        attempt.report(replace(epoch, epoch=epoch.epoch + fold * epochs, epochs=folds * epochs))

    bank = train_bank(others.rows(~stops), others.rows(stops), options, fold, checkpoint, report, device)
    return _metrics(bank, options, faces.rows(np.flatnonzero(is_test)))


def _metrics(bank: TrainedBank, options: TrainingOptions, faces: EmbeddingSet) -> dict[str, float]:
    found: dict[str, float] = {}
    classes = dict(options.tasks)
    for task, members in member_probabilities(bank.tensors, options, faces).items():
        probabilities = members.mean(axis=0)
        metrics = (
            age_metrics(over_years(probabilities, classes[task]), faces)
            if task is Task.AGE
            else gender_metrics(probabilities, faces)
        )
        found |= {
            f"{task.value} {name}": float(value)
            for name, value in metrics.items()
            if value is not None and name not in ("faces", "floor")
        }
    return found


def _write_result(directory: Path, state: str, value: float, scores: list[dict[str, float]]) -> None:
    """Write result.json, with the mean of each metric over the inner folds whose faces have labels for it."""
    names = dict.fromkeys(name for score in scores for name in score)
    metrics = {name: float(np.mean([score[name] for score in scores if name in score])) for name in names}
    result = TrialResult.model_validate({"state": state, "value": value, "metrics": metrics})
    save_record(directory / RESULT, result)


_GOAL_NAMES = {
    "nll": "negative log-likelihood, nats",
    "mae": "mean absolute error, years",
    "group-accuracy": "accuracy of the eight groups",
    "gender-accuracy": "accuracy of gender",
}


def write_search_reports(data_dir: Path, search: Search) -> None:
    """Write the report in three formats; report.json, written last, marks it as complete.

    Raises RuntimeError if no trial was evaluated on all inner folds.
    """
    status = search_status(data_dir, search)
    if status.best is None:
        problems = [trial.problem for trial in status.trials if trial.problem]
        raise RuntimeError(
            f"no trial was evaluated on all inner folds: {problems[0] if problems else 'all were pruned'}"
        )
    directory = search_dir(data_dir, search.id)
    Study(directory, search, search.trials).fail_dead(begun_numbers(data_dir, search))
    title, paragraphs = f"Search {search.id}", _paragraphs(search, status)
    tables = [_best(search, status), _trials(search, status)]
    plot = drawn(lambda axes: _history(axes, search, status.trials))
    write_text(
        directory / "report.md", "\n".join([f"# {title}", "", *paragraphs, *table_lines(tables)]) + "\n"
    )
    write_text(directory / "report.html", as_page(title, paragraphs, [("Trials", plot)], tables))
    summary: dict[str, Any] = {
        "search": search.model_dump(mode="json"),
        "trials": [trial.model_dump(mode="json") for trial in status.trials],
        "best": status.best.model_dump(mode="json"),
    }
    write_json(directory / REPORT, summary)


def _paragraphs(search: Search, status: SearchStatus) -> list[str]:
    counts = {
        state: sum(trial.state == state for trial in status.trials)
        for state in ("finished", "pruned", "failed")
    }
    held_out = ", ".join(str(fold) for fold in search.held_out)
    seen = ", ".join(str(fold) for fold in search.folds)
    return [
        f"{search.options.task} on {' and '.join(search.datasets)} in space {search.space.id}: "
        f"{counts['finished']} trials evaluated on all {search.inner_folds} inner folds, "
        f"{counts['pruned']} pruned, {counts['failed']} failed; {search.options.seeds} members per ensemble.",
        *search.warnings,
        "",
        f"Trials were evaluated by cross-validation within folds {seen}. "
        + (
            f"Fold {held_out} was held out: its metrics in a later report are independent of this selection."
            if search.held_out
            else "No fold was held out: the metrics of a later report on these data are too optimistic."
        )
        + " The measured value of the best of many trials is slightly optimistic.",
    ]


def _best(search: Search, status: SearchStatus) -> Table:
    assert status.best is not None
    rows = [[name, _shown(value)] for name, value in status.best.values.items()]
    rows += [[name, number(value)] for name, value in status.best.metrics.items()]
    return Table(
        f"Best: trial {status.best.trial}",
        ["option or metric", "value"],
        rows,
        f"Train with it: agegender train {' '.join(search.datasets)} --search {search.id}",
    )


def _trials(search: Search, status: SearchStatus) -> Table:
    names = list(search.parameters)
    sign = -1 if search.maximises else 1

    def rank(trial: TrialStatus) -> tuple[bool, float]:
        return trial.state != "finished", np.inf if trial.value is None else sign * trial.value

    return Table(
        "Trials, best first",
        ["trial", "state", _GOAL_NAMES[search.goal], *names],
        [
            [
                str(trial.trial),
                trial.state,
                number(trial.value),
                *(_shown(trial.values.get(n)) for n in names),
            ]
            for trial in sorted(status.trials, key=rank)
        ],
        "The metric is a mean over the evaluated inner folds, which are fewer for pruned trials.",
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def _history(axes: Axes, search: Search, trials: list[TrialStatus]) -> None:
    for state, marker in (("finished", "o"), ("pruned", "x")):
        points = [(t.trial, t.value) for t in trials if t.state == state and t.value is not None]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, label=state)
    judged = [(t.trial, t.value) for t in trials if t.state == "finished" and t.value is not None]
    keep = np.maximum if search.maximises else np.minimum
    axes.step([number for number, _ in judged], keep.accumulate([value for _, value in judged]), where="post")
    axes.set_xlabel("trial")
    axes.set_ylabel(_GOAL_NAMES[search.goal])
    axes.legend()
