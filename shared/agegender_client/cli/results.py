"""Commands for finished runs: reports, predictions, evaluations, promotion and pruning."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from agegender.display import ReportFormat, TableFormat, decimals, percent
from agegender.errors import Problem
from rich.markdown import Markdown
from rich.markup import escape

from agegender_client import Client
from agegender_client.cli import (
    AsJson,
    ImageSetOption,
    OverwriteOption,
    SpaceOption,
    console,
    errors,
    latest,
    print_end,
    print_json,
    save,
    table,
)
from agegender_client.cli.runs import KeyOption, RunId, WaitOption, actions_of, follow
from agegender_client.responses import Evaluation, Pruning, is_evaluation

_FORMAT_NAMES: dict[ReportFormat, str] = {"json": "JSON", "md": "Markdown", "html": "HTML"}
_UNITS = {"d": 1, "w": 7}  # of --older-than, in days


def add_commands(app: typer.Typer) -> None:
    for command in (
        report,
        predictions,
        evaluate,
        calibrate,
        compare,
        note,
        export,
        promote,
        delete,
        restore,
        prune,
    ):
        app.command()(command)


def report(
    run_id: RunId,
    report_format: Annotated[
        ReportFormat | None,
        typer.Option("--format", help="Print this format instead of a table."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write it to.")] = None,
    overwrite: OverwriteOption = False,
    as_json: AsJson = False,
) -> None:
    """Show the report of a finished experiment or search."""
    suffix = output.suffix.removeprefix(".").lower() if output else ""
    of_suffix = next((known for known in _FORMAT_NAMES if known == suffix), None)
    selected = "json" if as_json else report_format or of_suffix or "md"
    with Client() as client:
        if output is not None:
            note = f" as {_FORMAT_NAMES[selected]}"
            save(output, lambda: client.report(run_id, selected), overwrite=overwrite, note=note)
            return
        text = client.report(run_id, selected)
    if report_format is None and not as_json:
        console.print(Markdown(text))
    else:
        print(text)


def predictions(
    run_id: RunId,
    table_format: Annotated[
        TableFormat | None, typer.Option("--format", help="Format of the table. Default: csv.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write, such as predictions.parquet.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: AsJson = False,
) -> None:
    """Write the prediction of each face of an experiment as a table: out of fold, with its labels."""
    suffixes: dict[str, TableFormat] = {".csv": "csv", ".parquet": "parquet", ".json": "json"}
    of_suffix = None if output is None else suffixes.get(output.suffix.lower())
    selected: TableFormat = "json" if as_json else table_format or of_suffix or "csv"
    if selected == "parquet" and output is None:
        raise typer.BadParameter("a Parquet file is not text; add --output FILE.parquet")
    with Client() as client:
        if output is not None:
            save(output, lambda: client.predictions(run_id, selected), overwrite=overwrite)
        else:
            print(client.predictions(run_id, selected).decode().removesuffix("\r\n"))


HeadOption = Annotated[
    str,
    typer.Option("--head", help="Heads to judge: served, or the id of an experiment or a calibration."),
]


def evaluate(
    dataset: Annotated[str, typer.Argument(help="Extracted data set whose labels are the truth.")],
    head: HeadOption = "served",
    space: SpaceOption = None,
    image_set: ImageSetOption = None,
    key: KeyOption = None,
    wait: WaitOption = True,
    as_json: AsJson = False,
) -> None:
    """Judge heads on labelled faces that they never saw, and recommend what to do."""
    request = {"dataset": dataset, "head": head, "space": space, "image_set": image_set}
    _evaluate(request, key, wait=wait, as_json=as_json)


def calibrate(
    dataset: Annotated[str, typer.Argument(help="Extracted data set of your own: 50 faces or more.")],
    head: HeadOption = "served",
    space: SpaceOption = None,
    image_set: ImageSetOption = None,
    key: KeyOption = None,
    wait: WaitOption = True,
    as_json: AsJson = False,
) -> None:
    """Refit the certainty of heads to your own faces: temperature and intervals, not the weights.

    Makes new versions of the heads, which `agegender promote` serves. 50 to 500 faces are enough.
    """
    request = {"dataset": dataset, "head": head, "space": space, "image_set": image_set, "calibrate": True}
    _evaluate(request, key, wait=wait, as_json=as_json)


def _evaluate(request: dict[str, Any], key: str | None, *, wait: bool, as_json: bool) -> None:
    with Client() as client:
        run = client.create_evaluation(request, key)
        if not as_json:
            errors.print(f"Evaluation {run.id} in space {run.space}", markup=False, highlight=False)
            for warning in run.warnings:
                errors.print(warning, markup=False, style="yellow")
        if wait:
            follow(client, run.id, quiet=as_json)
            run = client.evaluation(run.id)
    if as_json:
        print_json(run)
    elif wait:
        _print_evaluation(run)
    else:
        console.print(run.id, highlight=False)


def _print_evaluation(run: Evaluation) -> None:
    shown = table("head", "faces", "age error", "right groups", "right genders", "coverage")
    for one in run.results.values():
        coverage = "" if one.coverage is None else percent(one.coverage)
        if one.coverage_after is not None:
            coverage += f" → {percent(one.coverage_after)}"
        shown.add_row(
            one.version,
            f"{one.faces:,}",
            "" if one.mae is None else f"{decimals(one.mae, 1)} years{one.age_error_note}",
            "" if one.group_accuracy is None else percent(one.group_accuracy),
            "" if one.accuracy is None else percent(one.accuracy),
            coverage,
        )
    console.print(shown)
    for sentence in run.recommendation:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    errors.print(f"Whole report: agegender report {run.id}", highlight=False)


def _promote_calibration(evaluation_id: str, *, force: bool, as_json: bool) -> dict[str, str]:
    with Client() as client:
        try:
            return client.promote(evaluation_id, False, force)
        except Problem as problem:
            if problem.slug != "promotion-needs-confirmation" or as_json or not sys.stdin.isatty():
                raise
            errors.print(problem.detail, markup=False)
        if not typer.confirm("Serve the new heads nevertheless?", err=True):
            errors.print("Nothing was changed.")
            raise typer.Exit(1)
        return client.promote(evaluation_id, False, True)


def export(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="ID", callback=latest, help="Id of an experiment or a calibration, or served."
        ),
    ],
    onnx: Annotated[bool, typer.Option("--onnx", help="As one ONNX graph, the only format.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File. Default: ID.onnx.")] = None,
    overwrite: OverwriteOption = False,
    coverage: Annotated[float, typer.Option(min=0.5, max=0.99, help="Coverage of the age interval.")] = 0.9,
    space: SpaceOption = None,
) -> None:
    """Write heads as one ONNX graph with standardisation, ensemble, calibration and model cards."""
    if not onnx:
        raise typer.BadParameter("the format is missing; add --onnx")
    path = output or Path(f"{run_id}.onnx")
    with Client() as client:
        save(path, lambda: client.onnx_graph(run_id, space=space, coverage=coverage), overwrite=overwrite)


def compare(
    ids: Annotated[list[str], typer.Argument(metavar="ID ID...", help="Ids of two or more experiments.")],
    as_json: AsJson = False,
) -> None:
    """Compare experiments face by face: errors, differing options, and confidence intervals."""
    if len(set(ids)) < 2:
        raise typer.BadParameter("got one experiment; expected two or more ids")
    with Client() as client:
        found = client.compare(*(latest(identifier) for identifier in ids))
    if as_json:
        print_json(found)
        return
    shown = table("experiment", "name", "age error", "gender error")
    for one in found.experiments:
        age = "" if one.age_error is None else f"{decimals(one.age_error, 2)} years"
        gender = "" if one.gender_error is None else f"{decimals(100 * one.gender_error, 2)} %"
        shown.add_row(one.id, escape(one.name or ""), age, gender)
    shown.columns[0].no_wrap = True
    console.print(shown)
    console.print(f"On the {found.faces:,} faces that all of them predicted out of fold.", highlight=False)
    for difference in found.differences:
        console.print(difference.summary, markup=False, highlight=False, soft_wrap=True)
    options = table("option", *(one.id for one in found.experiments))
    for path in found.experiments[0].options:
        options.add_row(path, *(escape(str(one.options[path])) for one in found.experiments))
    console.print(options if options.row_count else "Their options are the same.")


def note(
    run_id: RunId,
    name: Annotated[str | None, typer.Option(help="New name; empty removes it.")] = None,
    notes: Annotated[str | None, typer.Option(help="New notes; empty removes them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change the name or the notes of an experiment."""
    changes = {key: value or None for key, value in (("name", name), ("notes", notes)) if value is not None}
    if not changes:
        raise typer.BadParameter("nothing changes; add --name or --notes")
    with Client() as client:
        changed = client.describe(run_id, **changes)
    print_json(changed) if as_json else console.print(f"{run_id} is noted.")


def promote(
    experiment_id: Annotated[
        str,
        typer.Argument(
            metavar="ID", callback=latest, help="Id of an experiment or a calibration, or latest."
        ),
    ],
    refit: Annotated[
        bool,
        typer.Option(
            "--refit/--no-refit",
            help="Also train on all faces, and serve that ensemble if it is better on held-out folds.",
        ),
    ] = True,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Do not ask, even if the served heads had far more faces or have a smaller error.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the heads of an experiment, after a comparison with the served heads."""
    if is_evaluation(experiment_id):
        _print_promoted(_promote_calibration(experiment_id, force=force, as_json=as_json), as_json=as_json)
        return
    with Client() as client:
        comparisons = client.comparison(experiment_id)
        doubtful = any(comparison.reasons for comparison in comparisons)
        asks = doubtful and not force and not as_json and sys.stdin.isatty()
        if not as_json and (asks or force or not doubtful):
            for comparison in comparisons:
                errors.print(comparison.summary, markup=False)
        if asks:
            force = typer.confirm("Serve the new heads nevertheless?", err=True)
            if not force:
                errors.print("Nothing was changed.")
                raise typer.Exit(1)
        promoted = client.promote(experiment_id, refit, force)  # a doubtful one is rejected without force
        if refit:
            errors.print(
                f"Served: {', '.join(promoted.values())}. Training on all faces; the better one is served."
            )
            follow(client, experiment_id, quiet=as_json)
            promoted = client.promote(experiment_id, refit, force)
    _print_promoted(promoted, as_json=as_json)


def _print_promoted(promoted: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json(promoted)
        return
    for task, version in promoted.items():
        console.print(f"{task}: {version} is served. To undo: agegender rollback {task}")


def delete(
    run_id: RunId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete an experiment, a search or an evaluation that has ended. Asks first at a terminal.

    A run whose heads are served is not deleted. `agegender restore` brings the others back for a week.
    """
    with Client() as client:
        actions = actions_of(client, run_id)
        if not yes and not as_json and sys.stdin.isatty():
            run = actions.get(run_id)
            promoted = getattr(run, "promoted", {})
            heads = f", promoted as {', '.join(promoted.values())}" if promoted else ""
            if not typer.confirm(f"Delete {run_id} ({run.state}{heads})?", err=True):
                errors.print("Nothing was deleted.")
                raise typer.Exit(1)
        run = actions.delete(run_id)
    print_end(run_id, run, "deleted", as_json=as_json)
    if not as_json:
        errors.print(f"For a week, this brings it back: agegender restore {run_id}", highlight=False)


def restore(run_id: RunId, as_json: AsJson = False) -> None:
    """Bring back an experiment, a search or an evaluation that was deleted in the last week."""
    with Client() as client:
        print_end(run_id, client.restore(run_id), "restored", as_json=as_json)


def _days(text: str) -> int:
    number, unit = text.strip()[:-1], text.strip()[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit() and int(number) > 0):
        raise typer.BadParameter(f"got {text!r}; expected days or weeks, such as 30d or 12w")
    return int(number) * _UNITS[unit]


def prune(
    older_than: Annotated[
        str, typer.Option(help="How long nothing has changed in them: 30d for days, 12w for weeks.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old experiments, searches, evaluations, videos and heads, and empty the trash.

    Keeps, per task and space, the newest three heads. These are the served one and the two
    before it. What another experiment needs is kept too. Asks first.
    """
    days = _days(older_than)
    with Client() as client:
        found = client.prune(days, dry_run=True)
        if not as_json:
            _print_pruning(found)
        if dry_run or not any(one.kept is None for one in found.found):
            if as_json:
                print_json(found)
            return
        if not yes:
            if as_json or not sys.stdin.isatty():
                raise typer.BadParameter("this deletes files; add --yes, or --dry-run to only list them")
            if not typer.confirm(f"Delete these, {_megabytes(found.freed)}?", err=True):
                errors.print("Nothing was deleted.")
                raise typer.Exit(1)
        done = client.prune(days)
    if as_json:
        print_json(done)
    else:
        console.print(f"{_megabytes(done.freed)} freed.")


def _print_pruning(found: Pruning) -> None:
    shown = table("kind", "id", "unchanged since", "size", "")
    for one in found.found:
        shown.add_row(
            one.kind,
            one.id,
            f"{one.changed:%Y-%m-%d}",
            _megabytes(one.size),
            one.kept and f"kept: {one.kept}",
        )
    if found.found:
        console.print(shown)
    if not any(one.kept is None for one in found.found):
        console.print("Nothing to delete.")


def _megabytes(size: int) -> str:
    return f"{decimals(size / 1e6, 1)} MB"
