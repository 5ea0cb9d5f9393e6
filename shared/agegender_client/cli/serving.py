"""`agegender predict`, and `models` and `rollback` for the heads that predict."""

import shlex
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from agegender.display import certainty, interval, score, years
from agegender.errors import Problem
from agegender.faces import ImageProblem
from agegender.heads.head import Task
from agegender.predictions import UNFAMILIAR, FaceAnswer, ImageAnswer, Models
from rich.markup import escape
from rich.table import Table

from agegender_client import Client
from agegender_client.cli import (
    AsJson,
    FacesOption,
    OverwriteOption,
    console,
    errors,
    print_json,
    progress_bars,
    require_new,
    shown_path,
    table,
    write_output,
    writing,
)
from agegender_client.cli.image_files import (
    FaceTable,
    FoundFiles,
    ImageFile,
    found_files,
    planned_outputs,
)

_CONCURRENT_REQUESTS = 4
# Statuses of problems of one image. Any other problem would recur for every image, so it ends the command.
_IMAGE_PROBLEMS = {400, 413, 415, 422, 500, 504}
_MOST_FAILURES = 5  # in a row with a status of 500 or more; then it is not the images' fault


def add_commands(app: typer.Typer) -> None:
    for command in (predict, models, rollback):
        app.command()(command)


def predict(
    images: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, metavar="[IMAGES]...", help="Image files, or folders with images."),
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for copies of the images with boxes and labels, in the same subfolders.",
        ),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write a table to this CSV file instead, one row per face.")
    ] = None,
    overwrite: OverwriteOption = False,
    webcam: Annotated[str | None, typer.Option(hidden=True)] = None,
    coverage: Annotated[float, typer.Option(min=0.5, max=0.99, help="Coverage of the age interval.")] = 0.9,
    max_faces: Annotated[int | None, typer.Option(min=1, help="Maximum faces per image.")] = None,
    min_face: Annotated[float, typer.Option(min=0, help="Minimum size of a face, in pixels.")] = 0,
    faces: FacesOption = "found",
    as_json: AsJson = False,
) -> None:
    """Estimate age and gender of each face in images or folders. `agegender video` answers videos.

    Ctrl-C stops, and prints what was answered until then.
    """
    options: dict[str, Any] = {"coverage": coverage, "max_faces": max_faces, "min_face": min_face}
    if faces != "found":
        options["faces"] = faces
    if webcam is not None:
        raise typer.BadParameter(f"--webcam was removed; use agegender video {shlex.quote(webcam)}")
    if not images:
        raise typer.BadParameter("got no images; expected image files, or folders with images")
    found = found_files(images, annotate)
    _report_skipped(found)
    outputs = {} if annotate is None else planned_outputs(found.files, annotate)
    require_new([*outputs.values(), *([csv_file] if csv_file else [])], overwrite=overwrite)
    with ExitStack() as opened:
        rows = None if csv_file is None else opened.enter_context(FaceTable(csv_file))
        failed = _predict_files(found.files, options, outputs, rows, as_json=as_json)
    if csv_file and not as_json:
        errors.print(f"Written to {escape(shown_path(csv_file))}.")
    if annotate and not as_json:
        errors.print(f"Annotated images are in {escape(shown_path(annotate))}.")
    if failed or found.missed:
        raise typer.Exit(1)


def _report_skipped(found: FoundFiles) -> None:
    """Print which files were skipped. Exits with 1 if no image is left."""
    if summary := found.summary():
        errors.print(summary, markup=False, highlight=False)
    if not found.files:
        if not found.skipped:
            errors.print("The folders contain no files.")
        raise typer.Exit(1)


def _predict_files(
    files: list[ImageFile],
    options: dict[str, Any],
    outputs: dict[Path, Path],
    rows: FaceTable | None,
    *,
    as_json: bool,
) -> int:
    """Print the predictions, or write them as `rows`. Returns the number of images with a problem.

    Ctrl-C, and a problem that would recur for every image, end it after printing what was answered.
    """
    shown = table("image", "face", "age", "interval", "gender", "quality")
    unanswered = dict.fromkeys(files)
    failed = failures = 0
    ended_by: KeyboardInterrupt | Problem | OSError | None = None

    def add(file: ImageFile, answer: ImageAnswer | ImageProblem, no_copy: Problem | None) -> None:
        nonlocal failed, failures
        del unanswered[file]
        failed += not answer.ok or no_copy is not None
        problem = Problem.from_document(answer.problem) if isinstance(answer, ImageProblem) else no_copy
        failures = failures + 1 if problem is not None and problem.status >= 500 else 0
        if rows is not None:
            rows.add(shown_path(file.shown), answer)
        if as_json:
            entry = answer.model_dump(mode="json", exclude_none=True)
            if no_copy is not None:
                entry["annotate_problem"] = no_copy.document()
            elif file.path in outputs and answer.ok:
                entry["annotated"] = shown_path(outputs[file.path])
            print_json({"file": shown_path(file.path), **entry})
        elif rows is None:
            _add_rows(shown, file, answer)
        if no_copy is not None and not as_json:
            text = f"{shown_path(file.path)}: no annotated copy. {no_copy.detail}"
            errors.print(text, markup=False, highlight=False)
        bars.advance(bar)
        if failures == _MOST_FAILURES and problem is not None:
            problem.detail = f"{failures} images failed in a row, the last one with: {problem.detail}"
            raise problem

    with Client() as client, progress_bars(quiet=as_json or len(files) == 1) as bars:
        bar = bars.add_task("images", total=len(files), note="")
        pool = ThreadPoolExecutor(_CONCURRENT_REQUESTS)
        futures = {
            file: pool.submit(_predicted, client, file, options, outputs.get(file.path)) for file in files
        }
        try:
            for file, future in futures.items():
                add(file, *future.result())
        except (KeyboardInterrupt, Problem, OSError) as error:
            ended_by = error
        pool.shutdown(wait=False, cancel_futures=True)
        with suppress(Problem, OSError):  # those of outputs, again
            for file in [*unanswered]:
                future = futures[file]
                if future.done() and not future.cancelled() and future.exception() is None:
                    add(file, *future.result())
    if not as_json and shown.row_count:
        console.print(shown)
    if ended_by is not None:
        raise _ended_by(ended_by, len(files), [*unanswered], rows)
    if rows is not None:
        rows.finish()
    return failed


def _ended_by(
    error: KeyboardInterrupt | Problem | OSError,
    images: int,
    unanswered: list[ImageFile],
    rows: FaceTable | None,
) -> Exception:
    """Keep the rows, and return what ends the command; it states how many images were answered."""
    note = ""
    if unanswered and len(unanswered) < images:
        note = (
            f"{images - len(unanswered):,} of {images:,} images were answered; the first without an answer "
            f"is {shown_path(unanswered[0].path)}."
        )
    if rows is not None and (kept := rows.keep()) is not None:
        note += f" The rows until then are in {shown_path(kept)}."
    if isinstance(error, Problem):
        error.detail = f"{error.detail} {note}".rstrip()
        return error
    errors.print("[yellow]Incomplete.[/]", escape(note), highlight=False)
    return typer.Exit(1) if isinstance(error, KeyboardInterrupt) else error


def _predicted(
    client: Client, file: ImageFile, options: dict[str, Any], copy: Path | None
) -> tuple[ImageAnswer | ImageProblem, Problem | None]:
    """Return the answer of an image, or its problem, and why its annotated copy is missing."""
    try:
        content = file.path.read_bytes()
        answer = client.predict(content, **options)
    except OSError as error:
        unreadable = Problem("unreadable-file", 400, f"The file cannot be read: {error.strerror}.")
        return ImageProblem(problem=unreadable.document()), None
    except Problem as problem:
        _require_image_problem(problem)
        return ImageProblem(problem=problem.document()), None
    if copy is not None:
        try:
            drawn = client.annotate(content, **options)
            with writing(copy):
                copy.parent.mkdir(parents=True, exist_ok=True)
            write_output(copy, drawn)
        except Problem as problem:
            _require_image_problem(problem)
            return answer, problem
    return answer, None


def _require_image_problem(problem: Problem) -> None:
    """Raise a problem that would recur for every image."""
    if problem.status not in _IMAGE_PROBLEMS or problem.slug == "bad-settings":
        raise problem


def _add_rows(shown: Table, file: ImageFile, answer: ImageAnswer | ImageProblem) -> None:
    name = escape(shown_path(file.shown))
    if isinstance(answer, ImageProblem):
        shown.add_row(name, "", f"[red]{escape(str(answer.problem['detail']))}")
        return
    if answer.rotation:
        name += f" [dim]turned {answer.rotation}°"
    if answer.truncated:
        name += f" [dim]the {len(answer.faces)} largest of {answer.faces_found} faces"
    if not answer.faces:
        shown.add_row(name, "", "[dim]no face")
    for number, face in enumerate(answer.faces, 1):
        shown.add_row(name if number == 1 else "", str(number), *cells(face))


def cells(face: FaceAnswer) -> tuple[str, str, str, str]:
    """Return age, interval, gender and quality as a table shows them."""
    low, high = interval(face.age.interval)
    share = face.gender.probability[face.gender.label]
    unfamiliar = face.familiarity is not None and face.familiarity < UNFAMILIAR
    reasons = [*face.quality.reasons, *(["unfamiliar"] if unfamiliar else [])]
    doubts = f" [dim]{', '.join(reasons)}" if reasons else ""
    return (
        years(face.age.mean),
        f"{low} to {high}",
        f"{face.gender.label} {certainty(share)}",
        f"{score(face.quality.score)}{doubts}",
    )


def models(as_json: AsJson = False) -> None:
    """List the served heads."""
    with Client() as client:
        _print_models(client.models(), as_json=as_json)


def rollback(
    task: Annotated[Task, typer.Argument(help="age or gender.")],
    space: Annotated[
        str | None, typer.Option(help="Embedding space. Default: the space that is served.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the previous head of a task. Each call goes further back.

    To serve a newer head again, promote its experiment.
    """
    with Client() as client:
        _print_models(client.roll_back(task, space), as_json=as_json)
    if not as_json:
        errors.print("To serve a newer head again: agegender promote ID")


def _print_models(answer: Models, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    shown = table("task", "space", "version", "source", "previous")
    for head in answer.models:
        shown.add_row(
            head.task.value, head.space, head.version or "[red]none", head.source or "", head.previous or ""
        )
    console.print(shown)
    for warning in answer.warnings:
        errors.print(f"[yellow]Warning:[/] {warning}")
