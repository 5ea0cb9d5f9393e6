"""`agegender train`, `watch`, `experiments`, `report`, `promote`, `resume`, `cancel`."""

import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from agegender.display import duration
from agegender.files import write_text
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import TaskID

from agegender_client import Client
from agegender_client.cli.options import Folds, Overlap, Sets, nested
from agegender_client.cli.output import AsJson, console, errors, print_json, progress_bars, table
from agegender_client.cli.searches import follow_search
from agegender_client.training import Experiment, Fold, is_search

Identifier = Annotated[str, typer.Argument(metavar="ID", help="Of the experiment.")]
AnyIdentifier = Annotated[str, typer.Argument(metavar="ID", help="Of the experiment, or of the search.")]


class Form(StrEnum):
    JSON = "json"
    MARKDOWN = "md"
    HTML = "html"


_FORM_NAMES = {Form.JSON: "JSON", Form.MARKDOWN: "Markdown", Form.HTML: "HTML"}


def add_commands(app: typer.Typer) -> None:
    for command in (train, watch, report, promote, resume, cancel):
        app.command()(command)
    app.command("experiments")(list_experiments)


def train(
    datasets: Annotated[list[str], typer.Argument(help="Extracted data sets to train on together.")],
    task: Annotated[str, typer.Option(help="age, gender, or age-gender.")] = "age-gender",
    folds: Folds = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Networks a fold, trained at once.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same numbers.")] = None,
    preset: Annotated[str | None, typer.Option(help="default, or original.")] = None,
    search: Annotated[str | None, typer.Option(help="Take the best options of this search.")] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Begin with the networks of this experiment, on other data.")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Train on all faces too, as promote does otherwise.")
    ] = False,
    space: Annotated[str | None, typer.Option(help="Where extracted in several spaces.")] = None,
    variant: Annotated[str | None, typer.Option(help="Where several were extracted.")] = None,
    overlap: Overlap = None,
    sets: Sets = None,
    key: Annotated[str | None, typer.Option(help="The same key never starts a second experiment.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow it to its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train heads by cross-validation: one fold at a time is left out and judged on."""
    request: dict[str, Any] = {
        "task": task,
        "dataset": datasets,
        "folds": folds and [int(fold) for fold in folds.split(",")],
        "seeds": seeds,
        "seed": seed,
        "preset": preset,
        "search": search,
        "start_from": start_from,
        "refit": refit or None,
        "space": space,
        "variant": variant,
        "overlap": overlap,
        **nested(sets or []),
    }
    with Client() as client:
        experiment = client.create_experiment(request, key)
        if not as_json:
            errors.print(f"Experiment [bold]{experiment.id}[/] in space {experiment.space}")
            for warning in experiment.warnings:
                errors.print(f"[yellow]{escape(warning)}[/]")
        if wait:
            _follow(client, experiment.id, as_json=as_json)
        elif as_json:
            print_json(experiment)
        else:
            console.print(experiment.id)


def watch(identifier: AnyIdentifier, as_json: AsJson = False) -> None:
    """Follow an experiment, or a search, to its end."""
    with Client() as client:
        if is_search(identifier):
            follow_search(client, identifier, as_json=as_json)
        else:
            _follow(client, identifier, as_json=as_json)


def report(
    identifier: AnyIdentifier,
    form: Annotated[
        Form | None, typer.Option("--format", help="Print it as it is; default: a table.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to a file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the report of a finished experiment or search."""
    suffix = output.suffix.removeprefix(".").lower() if output else ""
    known = suffix if suffix in set(Form) else None
    chosen = Form.JSON if as_json else form or (Form(known) if known else Form.MARKDOWN)
    with Client() as client:
        text = client.report(identifier, chosen.value)
    if output is not None:
        write_text(output, text)
        errors.print(f"Written to {output} as {_FORM_NAMES[chosen]}.", markup=False)
    elif form is None and not as_json:
        console.print(Markdown(text))
    else:
        print(text)


def promote(
    identifier: Identifier,
    refit: Annotated[
        bool,
        typer.Option(
            help="Train on all faces too, and serve that from then on where it is better out of fold; "
            "or leave it at what is there."
        ),
    ] = True,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Do not ask, even if the served heads learnt from far more faces or have a smaller error.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the heads of an experiment from now on, after a comparison with those that are served."""
    with Client() as client:
        comparisons = client.comparison(identifier)
        asks = any(one.reasons for one in comparisons) and not force and not as_json and sys.stdin.isatty()
        if not as_json and (asks or force or not any(one.reasons for one in comparisons)):
            for one in comparisons:
                errors.print(one.summary, markup=False)
        if asks:
            force = typer.confirm("Serve the new heads all the same?", err=True)
            if not force:
                errors.print("Nothing was changed.")
                raise typer.Exit(1)
        promoted = client.promote(identifier, refit, force)  # refused, with both figures, if doubtful
        if refit:
            errors.print(
                f"Served: {', '.join(promoted.values())}. Training on all faces; the better one stays."
            )
            _followed(client, identifier, quiet=as_json)
            promoted = client.promote(identifier, refit, force)
    if as_json:
        print_json(promoted)
        return
    for task, version in promoted.items():
        console.print(f"{task}: {version} is served. Back again: agegender rollback {task}")


def resume(identifier: AnyIdentifier, as_json: AsJson = False) -> None:
    """Go on with a failed or cancelled experiment or search, where it stopped."""
    with Client() as client:
        if is_search(identifier):
            client.resume_search(identifier)
            follow_search(client, identifier, as_json=as_json)
        else:
            client.resume(identifier)
            _follow(client, identifier, as_json=as_json)


def cancel(
    identifier: AnyIdentifier,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete it with all its files; one that runs is cancelled first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel an experiment or a search; what is trained stays for `agegender resume`."""
    with Client() as client:
        look, stop, remove = (
            (client.search, client.cancel_search, client.delete_search)
            if is_search(identifier)
            else (client.experiment, client.cancel, client.delete)
        )
        over = look(identifier).ended
        if over and not delete:
            errors.print(
                f"{identifier} is over already. To delete it: agegender cancel {identifier} --delete"
            )
            raise typer.Exit(1)
        ended = None if over else stop(identifier)
        if delete:
            ended = remove(identifier)
    assert ended is not None
    if as_json:
        print_json(ended)
    else:
        console.print(f"{identifier} {'deleted' if delete else ended.state}.")


def list_experiments(as_json: AsJson = False) -> None:
    """List all experiments, newest first."""
    with Client() as client:
        found = client.experiments()
    if as_json:
        print_json(found)
        return
    shown = table("experiment", "state", "task", "data sets", "space", "folds", "promoted")
    for one in found:
        ended = sum(fold.state == "finished" for fold in one.folds)
        shown.add_row(
            one.id,
            one.state,
            one.task,
            ", ".join(one.datasets),
            one.space.id,
            f"{ended}/{len(one.folds)}",
            ", ".join(one.promoted.values()),
        )
    console.print(shown)


def _follow(client: Client, identifier: str, *, as_json: bool) -> None:
    _followed(client, identifier, quiet=as_json, each=print_json if as_json else None)
    if not as_json:
        console.print(Markdown(cross_validation(client.report(identifier, "md"))))
        errors.print(f"All of it: agegender report {identifier}\nServe it: agegender promote {identifier}")


def _followed(
    client: Client, identifier: str, *, quiet: bool, each: Callable[[Experiment], None] | None = None
) -> None:
    """Ends with code 4 where the experiment does not finish."""
    last = _show(client.watch(identifier), quiet=quiet, each=each)
    if last is None or last.state != "finished":
        for name, work in _named(last).items() if last else ():
            if work.problem:
                errors.print(f"[red]{name} failed:[/] {work.problem}")
        errors.print(
            f"{identifier} {last.state if last else 'is lost'}. To go on: agegender resume {identifier}"
        )
        raise typer.Exit(4)


def cross_validation(report: str) -> str:
    """The sections of a report in Markdown that have the tables by left-out fold."""
    sections = report.split("\n## ")
    return "\n".join(f"## {section}" for section in sections if section.startswith("Cross-validation"))


def _show(
    events: Iterable[Experiment], *, quiet: bool, each: Callable[[Experiment], None] | None
) -> Experiment | None:
    last = None
    with progress_bars(quiet=quiet) as bars:
        rows: dict[str, TaskID] = {}
        for last in events:
            if each is not None:
                each(last)
            for name, fold in _named(last).items():
                if name not in rows:
                    rows[name] = bars.add_task(name, total=None, note="")
                seconds = fold.seconds_left if fold.state == "running" else None
                left = "" if seconds is None else f" {duration(seconds)}"
                bars.update(
                    rows[name],
                    # Early stopping ends a fold before its last epoch; a full bar says that it is done.
                    completed=fold.epochs if fold.state == "finished" else fold.epoch,
                    total=fold.epochs or None,
                    note=f"{fold.state}{left}",
                )
    return last


def _named(experiment: Experiment) -> dict[str, Fold]:
    """All banks of an experiment, as they are told."""
    refits = {"All faces" if one.fold is None else f"All but {one.fold}": one for one in experiment.refits}
    return {f"Fold {one.fold}": one for one in experiment.folds} | refits
