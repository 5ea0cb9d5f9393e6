"""Options that several commands share."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer


def _as_folds(value: str | None) -> str | None:
    if value is not None and not all(part.strip().isdigit() for part in value.split(",")):
        raise typer.BadParameter("folds are numbers with commas between them, such as 0,1,2")
    return value


Folds = Annotated[
    str | None, typer.Option(callback=_as_folds, help="To leave out, such as 0,1; default: all.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any further option, such as optimizer.epochs=5 or 'head.hidden=[256,128]'. Repeatable.",
    ),
]
Overlap = Annotated[
    str | None,
    typer.Option(
        help="If one photograph or subject is in several folds or data sets: refuse, merge or allow."
    ),
]


def nested(assignments: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", "a.c=x"]` as `{"a": {"b": 1, "c": "x"}}`; values are JSON where they can be read so."""
    found: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise typer.BadParameter(f"{assignment!r} is not NAME=VALUE")
        *parents, name = path.split(".")
        target = found
        for parent in parents:
            target = target.setdefault(parent, {})
        try:
            target[name] = json.loads(text)
        except json.JSONDecodeError:
            target[name] = text
    return found
