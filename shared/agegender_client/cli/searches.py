"""`agegender search` and `agegender searches`: hyperparameters, by trials over the queue."""

from typing import Annotated, Any

import typer
from rich.markdown import Markdown
from rich.markup import escape

from agegender_client import Client
from agegender_client.cli.options import Overlap, Sets, nested
from agegender_client.cli.output import AsJson, console, errors, print_json, progress_bars, table
from agegender_client.training import Search

_OVER = frozenset({"finished", "pruned", "failed"})


def add_commands(app: typer.Typer) -> None:
    app.command()(search)
    app.command("searches")(list_searches)


def search(
    datasets: Annotated[list[str], typer.Argument(help="Extracted data sets to search on.")],
    task: Annotated[str, typer.Option(help="age, gender, or age-gender.")] = "age-gender",
    trials: Annotated[int | None, typer.Option(min=1, help="How many settings to try.")] = None,
    goal: Annotated[
        str | None, typer.Option(help="nll, mae, group-accuracy or gender-accuracy; default nll.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Of what varies: default, or original.")] = None,
    space: Annotated[str | None, typer.Option(help="Where extracted in several spaces.")] = None,
    variant: Annotated[str | None, typer.Option(help="Where several were extracted.")] = None,
    overlap: Overlap = None,
    sets: Sets = None,
    key: Annotated[str | None, typer.Option(help="The same key never starts a second search.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow it to its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Search for better hyperparameters; every trial is a job."""
    request: dict[str, Any] = {
        "task": task,
        "dataset": datasets,
        "trials": trials,
        "goal": goal,
        "preset": preset,
        "space": space,
        "variant": variant,
        "overlap": overlap,
        **nested(sets or []),
    }
    with Client() as client:
        found = client.create_search(request, key)
        if not as_json:
            errors.print(f"Search [bold]{found.id}[/]")
            for warning in found.warnings:
                errors.print(f"[yellow]{escape(warning)}[/]")
        if wait:
            follow_search(client, found.id, as_json=as_json)
        elif as_json:
            print_json(found)
        else:
            console.print(found.id)


def follow_search(client: Client, identifier: str, *, as_json: bool) -> None:
    """Show each change, and at the end what was found. Ends with code 4 without success."""
    last: Search | None = None
    with progress_bars(quiet=as_json) as bars:
        bar = bars.add_task("trials", total=None, note="")
        for last in client.watch_search(identifier):
            if as_json:
                print_json(last)
            over = sum(trial.state in _OVER for trial in last.trials)
            note = f"best {last.best['value']:.4g}" if last.best else last.state
            bars.update(bar, completed=over, total=len(last.trials), note=note)
    if last is None or last.state != "finished":
        if last is not None and last.problem:
            errors.print(last.problem, markup=False)
        state = last.state if last else "is lost"
        errors.print(f"{identifier} {state}. To go on: agegender resume {identifier}")
        raise typer.Exit(4)
    if not as_json:
        console.print(Markdown(_best(client.report(identifier, "md"))))
        errors.print(
            f"All of it: agegender report {identifier}\n"
            f"Train with it: agegender train {' '.join(last.datasets)} --search {identifier}"
        )


def _best(report: str) -> str:
    """The section of a report in Markdown that has the best trial."""
    return "\n".join(f"## {part}" for part in report.split("\n## ") if part.startswith("Best"))


def list_searches(as_json: AsJson = False) -> None:
    """List all searches, newest first."""
    with Client() as client:
        found = client.searches()
    if as_json:
        print_json(found)
        return
    shown = table("search", "state", "data sets", "trials", "best")
    for one in found:
        over = sum(trial.state in _OVER for trial in one.trials)
        best = f"{one.best['value']:.4g}" if one.best else ""
        shown.add_row(one.id, one.state, ", ".join(one.datasets), f"{over}/{len(one.trials)}", best)
    console.print(shown)
