"""Tables of runs, their failures and the ends of commands about them."""

from collections.abc import Sequence

from agegender.display import duration, percent
from rich.markup import escape

from agegender_client.cli import console, errors, print_json, table
from agegender_client.responses import Evaluation, Experiment, Fold, Search, VideoRun

Run = Experiment | Search | Evaluation | VideoRun


def print_failures(run: Run) -> None:
    if not isinstance(run, Experiment):
        if run.problem:
            errors.print(run.problem, markup=False)
        return
    for name, fold in named_folds(run).items():
        if fold.problem:
            errors.print(f"[red]{name} failed:[/] {escape(fold.problem)}")


def print_runs(found: Sequence[Run], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    named = any(isinstance(run, Experiment) and run.name for run in found)
    experiments = table(
        "experiment", *(["name"] if named else []), "state", "task", "data sets", "space", "folds", "promoted"
    )
    searches = table("search", "state", "data sets", "trials", "best")
    evaluations = table("evaluation", "state", "data set", "space", "coverage")
    videos = table("video", "state", "file", "searched", "persons")
    for run in found:
        if isinstance(run, Search):
            trials = f"{ended_trials(run)}/{len(run.trials)}"
            searches.add_row(run.id, run.state, ", ".join(run.datasets), trials, best_value(run))
        elif isinstance(run, Evaluation):
            coverage = next((one.coverage for one in run.results.values() if one.coverage is not None), None)
            shown = "" if coverage is None else percent(coverage)
            evaluations.add_row(run.id, run.state, run.dataset, run.space.id, shown)
        elif isinstance(run, VideoRun):
            persons = "" if run.result is None else str(run.result.persons)
            videos.add_row(run.id, run.state, escape(run.file), duration(run.seconds), persons)
        else:
            finished = sum(fold.state == "finished" for fold in run.folds)
            folds, promoted = f"{finished}/{len(run.folds)}", ", ".join(run.promoted)
            row = (
                run.id,
                *([escape(run.name or "")] if named else []),
                run.state,
                run.task,
                ", ".join(run.datasets),
                run.space.id,
                folds,
                promoted,
            )
            experiments.add_row(*row)
    for shown_table in (experiments, searches, evaluations, videos):
        shown_table.columns[0].no_wrap = True  # an id is copied as a whole
    filled = [one for one in (searches, evaluations, videos) if one.row_count]
    console.print(filled[0] if filled else experiments)


def print_end(run_id: str, run: Run, state: str, *, as_json: bool) -> None:
    print_json(run) if as_json else console.print(f"{run_id} {state}.")


def sections(report: str, heading: str) -> str:
    """Return the sections of a Markdown report whose headings start with `heading`."""
    return "\n".join(f"## {part}" for part in report.split("\n## ") if part.startswith(heading))


def named_folds(experiment: Experiment) -> dict[str, Fold]:
    """Return everything that the experiment trains, by the name that is shown."""
    refits = {"All faces" if one.fold is None else f"All but {one.fold}": one for one in experiment.refits}
    return {f"Fold {one.fold}": one for one in experiment.folds} | refits


def ended_trials(search: Search) -> int:
    ended = {"finished", "pruned", "failed"}
    return sum(trial.state in ended for trial in search.trials)


def best_value(search: Search) -> str:
    return f"best {search.best['value']:.4g}" if search.best else ""
