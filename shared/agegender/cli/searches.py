"""`agegender search`: hyperparameters, by trials over the queue."""

import time
from typing import Annotated, Any

import typer

from agegender.cli.options import Sets, nested
from agegender.cli.output import AsJson, console, errors, print_json
from agegender.client import Client

_PAUSE = 2.0


def add_commands(app: typer.Typer) -> None:
    app.command()(search)
    app.command("searches")(list_searches)


def search(
    datasets: Annotated[list[str], typer.Argument(help="Extracted data sets to search on.")],
    task: Annotated[str, typer.Option(help="age, gender, or age-gender.")] = "age-gender",
    trials: Annotated[int | None, typer.Option(min=1, help="How many settings to try.")] = None,
    preset: Annotated[str | None, typer.Option(help="Of the search space.")] = None,
    space: Annotated[str | None, typer.Option(help="Where extracted in several spaces.")] = None,
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
        "preset": preset,
        "space": space,
        **nested(sets or []),
    }
    with Client() as client:
        found = client.create_search(request, key)
        with errors.status(f"Search {found.id}") as spinner:
            while wait and not found.ended:
                time.sleep(_PAUSE)
                found = client.search(found.id)
                spinner.update(f"Search {found.id}: {found.state}")
    print_json(found) if as_json else console.print_json(found.model_dump_json())
    if wait and found.state != "finished":
        raise typer.Exit(4)


def list_searches(as_json: AsJson = False) -> None:
    """List all searches."""
    with Client() as client:
        found = client.searches()
    if as_json:
        print_json(found)
    for one in () if as_json else found:
        console.print(f"{one.id}  {one.state}")
