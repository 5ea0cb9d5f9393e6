"""`agegender models` and `agegender rollback`."""

from typing import Annotated

import typer
from agegender.heads.head import Task
from agegender.predictions import Models

from agegender_client import Client
from agegender_client.cli.output import AsJson, console, errors, print_json, table


def add_commands(app: typer.Typer) -> None:
    app.command()(models)
    app.command()(rollback)


def models(as_json: AsJson = False) -> None:
    """List the heads that are served."""
    with Client() as client:
        _print(client.models(), as_json=as_json)


def rollback(
    task: Annotated[Task, typer.Argument(help="age or gender.")],
    space: Annotated[str | None, typer.Option(help="Default: the one that is served now.")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the head before the current one; once more, and the newer one is back."""
    with Client() as client:
        _print(client.roll_back(task, space), as_json=as_json)


def _print(told: Models, *, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    shown = table("task", "space", "version", "from", "before it")
    for head in told.models:
        shown.add_row(
            head.task.value, head.space, head.version or "[red]none", head.source or "", head.previous or ""
        )
    console.print(shown)
    for warning in told.warnings:
        errors.print(f"[yellow]Warning:[/] {warning}")
