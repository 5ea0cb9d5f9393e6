"""Report of a search: its trials, the best one, and how to use it."""

from pathlib import Path
from typing import Any

import numpy as np
from agegender.files import write_json, write_text
from matplotlib.axes import Axes

from trainer.reports.render import as_page, drawn, table_lines
from trainer.reports.tables import Table, number
from trainer.runs.store import REPORT
from trainer.searches.search import Search, SearchStatus, TrialStatus, begun_numbers, search_dir
from trainer.searches.steps import search_status
from trainer.searches.study import Study

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
