"""Where words go: answers to standard output, progress and errors to standard error."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

console = Console()
errors = Console(stderr=True, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one value a line, for scripts.")]


def table(*columns: str) -> Table:
    """Without lines; what is too long is folded, so that names stay whole."""
    made = Table(box=None, header_style="dim")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_json(answer: BaseModel | dict[str, Any] | Sequence[BaseModel]) -> None:
    """One line on standard output, unwrapped and uncoloured."""
    if isinstance(answer, BaseModel):
        print(answer.model_dump_json(exclude_none=True), flush=True)
    elif isinstance(answer, dict):
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    else:
        print(json.dumps([one.model_dump(mode="json", exclude_none=True) for one in answer]), flush=True)


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


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
