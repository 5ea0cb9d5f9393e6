"""`agegender train` and `search` create runs; `watch`, `resume`, `cancel` and so on work for all kinds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from agegender.display import duration
from agegender.errors import Problem
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import TaskID

from agegender_client import Client
from agegender_client.cli import (
    AsJson,
    ImageSetOption,
    Run,
    SpaceOption,
    best_value,
    console,
    ended_trials,
    errors,
    latest,
    named_folds,
    parse_options,
    print_end,
    print_failures,
    print_json,
    print_runs,
    progress_bars,
    sections,
)
from agegender_client.responses import (
    Evaluation,
    Experiment,
    Search,
    VideoRun,
    is_evaluation,
    is_search,
    is_video,
)


def _check_folds(value: str | None) -> str | None:
    if value is not None and not all(part.strip().isdigit() for part in value.split(",")):
        raise typer.BadParameter(f"got {value!r}; expected numbers with commas between them, such as 0,1,2")
    return value


RunId = Annotated[
    str, typer.Argument(metavar="ID", callback=latest, help="Id of a run; latest: the newest experiment.")
]
DatasetsArgument = Annotated[list[str], typer.Argument(help="Extracted data sets to train on together.")]
TaskOption = Annotated[str, typer.Option("--task", help="age, gender, or age-gender.")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="Preset of the options that are not set: default, or original.")
]
KeyOption = Annotated[
    str | None, typer.Option("--key", help="Idempotency key: a second run with the same key is not created.")
]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Watch the run until it has ended.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other option, such as optimizer.epochs=5 or 'head.hidden=[256,128]'. Repeatable.",
    ),
]
OverlapOption = Annotated[
    str | None,
    typer.Option(
        "--overlap",
        help="If a photograph or subject is in several folds or data sets: refuse, merge or allow.",
    ),
]


def add_commands(app: typer.Typer) -> None:
    for command in (train, search, show, watch, resume, cancel):
        app.command()(command)
    app.command("experiments")(list_experiments)
    app.command("searches")(list_searches)
    app.command("evaluations")(list_evaluations)
    app.command("videos")(list_videos)


def train(
    datasets: DatasetsArgument,
    task: TaskOption = "age-gender",
    folds: Annotated[
        str | None,
        typer.Option(callback=_check_folds, help="Folds to hold out, such as 0,1. Default: all."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Members of the ensemble of each fold.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    preset: PresetOption = None,
    search: Annotated[str | None, typer.Option(help="Id of a search whose best options are used.")] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            "--warm-start",
            "--start-from",
            help="Id of an experiment on other data whose ensembles are trained further. --start-from is "
            "deprecated.",
        ),
    ] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Also train on all faces, as promote does.")] = False,
    k: Annotated[
        int | None, typer.Option("--k", min=2, max=50, help="Divide the subjects into so many folds.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Extracted data set to judge the trained heads on, as evaluate does.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the experiment, for lists and reports.")] = None,
    notes: Annotated[str | None, typer.Option(help="Notes, for the report.")] = None,
    space: SpaceOption = None,
    image_set: ImageSetOption = None,
    overlap: OverlapOption = None,
    options: SetOption = None,
    key: KeyOption = None,
    wait: WaitOption = True,
    as_json: AsJson = False,
) -> None:
    """Train heads with cross-validation: each fold is held out once and evaluated."""
    if test is not None and not wait:
        raise typer.BadParameter("--test judges the trained heads, so it needs --wait")
    request: dict[str, Any] = {
        "task": task,
        "dataset": datasets,
        "folds": folds and [int(fold) for fold in folds.split(",")],
        "seeds": seeds,
        "seed": seed,
        "preset": preset,
        "search": search,
        "warm_start": warm_start,
        "refit": refit or None,
        "k": k,
        "name": name,
        "notes": notes,
        "space": space,
        "image_set": image_set,
        "overlap": overlap,
        **parse_options(options or []),
    }
    with Client() as client:
        experiment = client.create_experiment(request, key)
        _created(client, experiment, f"in space {experiment.space}", wait=wait, as_json=as_json)
        if test is not None:
            judging = {"dataset": test, "head": experiment.id, "space": experiment.space.id}
            _created(client, client.create_evaluation(judging), "", wait=True, as_json=as_json)


def search(
    datasets: DatasetsArgument,
    task: TaskOption = "age-gender",
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials.")] = None,
    goal: Annotated[
        str | None,
        typer.Option(help="Metric to improve: nll, mae, group-accuracy or gender-accuracy. Default: nll."),
    ] = None,
    preset: PresetOption = None,
    space: SpaceOption = None,
    image_set: ImageSetOption = None,
    overlap: OverlapOption = None,
    options: SetOption = None,
    key: KeyOption = None,
    wait: WaitOption = True,
    as_json: AsJson = False,
) -> None:
    """Search for better hyperparameters. Every trial is a job."""
    request: dict[str, Any] = {
        "task": task,
        "dataset": datasets,
        "trials": trials,
        "goal": goal,
        "preset": preset,
        "space": space,
        "image_set": image_set,
        "overlap": overlap,
        **parse_options(options or []),
    }
    with Client() as client:
        _created(client, client.create_search(request, key), "", wait=wait, as_json=as_json)


def list_experiments(as_json: AsJson = False) -> None:
    """List all experiments, newest first."""
    with Client() as client:
        print_runs(client.experiments(), as_json=as_json)


def list_searches(as_json: AsJson = False) -> None:
    """List all searches, newest first."""
    with Client() as client:
        print_runs(client.searches(), as_json=as_json)


def list_evaluations(as_json: AsJson = False) -> None:
    """List all evaluations and calibrations, newest first."""
    with Client() as client:
        print_runs(client.evaluations(), as_json=as_json)


def list_videos(as_json: AsJson = False) -> None:
    """List the videos that the server answers, newest first."""
    with Client() as client:
        print_runs(client.videos(), as_json=as_json)


def show(run_id: RunId, as_json: AsJson = False) -> None:
    """Show the state of an experiment, a search, an evaluation or a video."""
    with Client() as client:
        run = actions_of(client, run_id).get(run_id)
    if as_json:
        print_json(run)
        return
    print_runs([run], as_json=False)
    for warning in run.warnings:
        errors.print(f"[yellow]{escape(warning)}[/]")
    print_failures(run)


def watch(run_id: RunId, as_json: AsJson = False) -> None:
    """Watch an experiment or a search until it has ended."""
    with Client() as client:
        _watch(client, run_id, as_json=as_json)


def resume(run_id: RunId, as_json: AsJson = False) -> None:
    """Resume a failed or cancelled experiment or search."""
    with Client() as client:
        actions_of(client, run_id).resume(run_id)
        _watch(client, run_id, as_json=as_json)


def cancel(
    run_id: RunId,
    delete: Annotated[bool, typer.Option("--delete", help="Then delete it with all its files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel an experiment or a search. `agegender resume` continues with what has been trained."""
    with Client() as client:
        actions = actions_of(client, run_id)
        run = actions.get(run_id)
        if run.ended and not delete:
            errors.print(f"{run_id} has ended already. To delete it: agegender cancel {run_id} --delete")
            raise typer.Exit(1)
        if not run.ended:
            run = actions.cancel(run_id)
        if delete:
            run = actions.delete(run_id)
    print_end(run_id, run, "deleted" if delete else run.state, as_json=as_json)


@dataclass(frozen=True)
class Actions:
    """The methods of the client for one kind of run."""

    get: Callable[[str], Run]
    events: Callable[[str], Iterator[Run]]
    resume: Callable[[str], Run]
    cancel: Callable[[str], Run]
    delete: Callable[[str], Run]


def actions_of(client: Client, run_id: str) -> Actions:
    if is_search(run_id):
        actions = (client.watch_search, client.resume_search, client.cancel_search, client.delete_search)
        return Actions(client.search, *actions)
    if is_evaluation(run_id):
        return Actions(
            client.evaluation,
            client.watch_evaluation,
            client.resume_evaluation,
            client.cancel_evaluation,
            client.delete_evaluation,
        )
    if is_video(run_id):
        videos = (client.watch_video, client.resume_video, client.cancel_video, client.delete_video)
        return Actions(client.video, *videos)
    return Actions(client.experiment, client.watch, client.resume, client.cancel, client.delete)


def _created(client: Client, run: Run, detail: str, *, wait: bool, as_json: bool) -> None:
    if not as_json:
        errors.print(f"{type(run).__name__} [bold]{run.id}[/] {detail}".rstrip())
        for warning in run.warnings:
            errors.print(f"[yellow]{escape(warning)}[/]")
    if wait:
        _watch(client, run.id, as_json=as_json)
    elif as_json:
        print_json(run)
    else:
        console.print(run.id)


def _watch(client: Client, run_id: str, *, as_json: bool) -> None:
    """Show each change and, at the end, the main section of the report."""
    run = follow(client, run_id, quiet=as_json, each=print_json if as_json else None)
    if as_json:
        return
    heading = {Search: "Best", Evaluation: "Here", VideoRun: "Persons"}.get(type(run), "Cross-validation")
    text = client.report(run_id, "md")
    console.print(Markdown(sections(text, heading)))
    for line in text.splitlines():
        if line.startswith("Hint: "):
            errors.print(line, markup=False, style="yellow")
    errors.print(f"Whole report: agegender report {run_id}")
    if isinstance(run, Search):
        errors.print(f"Train with it: agegender train {' '.join(run.datasets)} --search {run_id}")
    elif isinstance(run, Experiment):
        errors.print(f"Serve it: agegender promote {run_id}")


def follow(client: Client, run_id: str, *, quiet: bool, each: Callable[[Run], None] | None = None) -> Run:
    """Show progress until the run has ended. Exits with 4 if it has not finished."""
    run = None
    with progress_bars(quiet=quiet) as bars:
        tasks: dict[str, TaskID] = {}
        try:
            for run in actions_of(client, run_id).events(run_id):
                if each is not None:
                    each(run)
                for name, completed, total, note in _progress(run):
                    if name not in tasks:
                        tasks[name] = bars.add_task(name, total=None, note="")
                    bars.update(tasks[name], completed=completed, total=total or None, note=note)
        except Problem as problem:
            if problem.status >= 500 or problem.status == 429:
                problem.detail += f" To watch it again: agegender watch {run_id}"
            raise
    assert run is not None, "the client yields a state that has ended"
    if run.state == "finished":
        return run
    print_failures(run)
    errors.print(f"{run_id} {run.state}. To resume: agegender resume {run_id}")
    raise typer.Exit(4)


def _progress(run: Run) -> Iterator[tuple[str, int, int, str]]:
    """Yield name, completed, total and a note of each progress bar."""
    if isinstance(run, Search):
        yield "trials", ended_trials(run), len(run.trials), best_value(run) or run.state
        return
    if isinstance(run, Evaluation):
        yield "evaluation", int(run.ended), 1, run.state
        return
    if isinstance(run, VideoRun):
        note = run.waiting_for or f"{run.state}, {duration(run.seconds)} searched"
        yield "segments", run.segments_done, run.segments, note
        return
    for name, fold in named_folds(run).items():
        seconds = fold.seconds_left if fold.state == "running" else None
        left = "" if seconds is None else f" {duration(seconds)}"
        # Early stopping ends a fold before its last epoch. Its bar is full nevertheless.
        epoch = fold.epochs if fold.state == "finished" else fold.epoch
        yield name, epoch, fold.epochs, f"{fold.state}{left}"
