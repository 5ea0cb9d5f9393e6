"""`agegender predict`, and `models` and `rollback` for the heads that predict."""

import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Any

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
_IMAGE_PROBLEMS = {400, 413, 415, 422}


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
    """Estimate age and gender of each face in images or folders. `agegender video` answers videos."""
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
        rows = None if csv_file is None else opened.enter_context(FaceTable(_opened(csv_file)))
        failed = _predict_files(found.files, options, outputs, rows, as_json=as_json)
    if csv_file and not as_json:
        errors.print(f"Written to {escape(shown_path(csv_file))}.")
    if annotate and not as_json:
        errors.print(f"Annotated images are in {escape(shown_path(annotate))}.")
    if failed or found.given_skipped:
        raise typer.Exit(1)


def _report_skipped(found: FoundFiles) -> None:
    """Print which files were skipped. Exits with 1 if no image is left."""
    if summary := found.summary():
        errors.print(summary, markup=False, highlight=False)
    if not found.files:
        if not found.skipped:
            errors.print("The folders contain no files.")
        raise typer.Exit(1)


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{shown_path(path)} cannot be written: {error.strerror}") from error


def _predict_files(
    files: list[ImageFile],
    options: dict[str, Any],
    outputs: dict[Path, Path],
    rows: FaceTable | None,
    *,
    as_json: bool,
) -> int:
    """Print the predictions, or write them as `rows`. Returns the number of images with a problem."""
    shown = table("image", "face", "age", "interval", "gender", "quality")
    failed = 0
    with Client() as client, progress_bars(quiet=as_json or len(files) == 1) as bars:
        bar = bars.add_task("images", total=len(files), note="")
        for file, answer in _answers(client, files, options, outputs):
            failed += not answer.ok
            if rows is not None:
                rows.add(shown_path(file.shown), answer)
            if as_json:
                entry = answer.model_dump(mode="json", exclude_none=True)
                if file.path in outputs and answer.ok:
                    entry["annotated"] = shown_path(outputs[file.path])
                print_json({"file": shown_path(file.path), **entry})
            elif rows is None:
                _add_rows(shown, file, answer)
            bars.advance(bar)
    if not as_json and rows is None:
        console.print(shown)
    return failed


def _answers(
    client: Client, files: list[ImageFile], options: dict[str, Any], outputs: dict[Path, Path]
) -> Iterator[tuple[ImageFile, ImageAnswer | ImageProblem]]:
    def predicted(file: ImageFile) -> ImageAnswer | ImageProblem:
        try:
            content = file.path.read_bytes()
            answer = client.predict(content, **options)
            drawn = client.annotate(content, **options) if file.path in outputs else None
        except OSError as error:
            problem = Problem("unreadable-file", 400, f"The file cannot be read: {error.strerror}.")
            return ImageProblem(problem=problem.document())
        except Problem as problem:
            if problem.status not in _IMAGE_PROBLEMS or problem.slug == "bad-settings":
                raise
            return ImageProblem(problem=problem.document())
        if drawn is not None:
            path = outputs[file.path]
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_output(path, drawn)
        return answer

    with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
        try:
            yield from zip(files, pool.map(predicted, files), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


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
