"""The `agegender` command line, and what its commands share: consoles, tables, JSON lines, progress bars."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from agegender.faces import WhichFaces
from pydantic import BaseModel

from agegender_client import Client

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ModuleNotFoundError as error:
    raise SystemExit(
        f"error: {error.name} is missing. Install the command: pip install './shared[cli]'"
    ) from None

console = Console()
errors = Console(stderr=True, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, one value per line.")]
SpaceOption = Annotated[
    str | None, typer.Option("--space", help="Embedding space, if data were extracted in several.")
]
ImageSetOption = Annotated[
    str | None,
    typer.Option(
        "--image-set", "--variant", help="Image set, if several were extracted. --variant is deprecated."
    ),
]
FacesOption = Annotated[
    WhichFaces,
    typer.Option(
        "--faces",
        help="found: the faces found in an image; found-or-whole: without any, the whole image as one face; "
        "whole: always the whole image as one face, for images that are cropped already.",
    ),
]


def table(*columns: str) -> Table:
    """Return a table without lines that folds long cells, so that names stay complete."""
    new = Table(box=None, header_style="dim")
    for column in columns:
        new.add_column(column, overflow="fold")
    return new


def print_json(answer: BaseModel | dict[str, Any] | Sequence[BaseModel]) -> None:
    """Print one line to standard output, neither wrapped nor coloured."""
    if isinstance(answer, BaseModel):
        print(answer.model_dump_json(exclude_none=True), flush=True)
    elif isinstance(answer, dict):
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    else:
        print(json.dumps([one.model_dump(mode="json", exclude_none=True) for one in answer]), flush=True)


def progress_bars(*, quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        TimeRemainingColumn(),
        console=errors,
        disable=quiet,
    )


def plural(count: int, noun: str) -> str:
    """Return `1 file`, `2 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def parse_options(assignments: Sequence[str]) -> dict[str, Any]:
    """Return `["a.b=1", "a.c=x"]` as `{"a": {"b": 1, "c": "x"}}`. Values that are not JSON are text."""
    options: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise typer.BadParameter(f"got {assignment!r}; expected NAME=VALUE")
        *parents, name = path.split(".")
        target = options
        for parent in parents:
            target = target.setdefault(parent, {})
        try:
            target[name] = json.loads(text)
        except json.JSONDecodeError:
            target[name] = text
    return options


def latest(identifier: str) -> str:
    """Return the id of the newest experiment for `latest`; return anything else as it is."""
    if identifier != "latest":
        return identifier
    with Client() as client:
        found = client.experiments()  # newest first
    if not found:
        raise typer.BadParameter("there is no experiment yet; agegender train DATASET starts one")
    return found[0].id
