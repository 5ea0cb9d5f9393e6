"""`agegender predict`: images, folders of them, or a webcam."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from agegender.display import certainty, interval, score, years
from agegender.errors import Problem
from agegender.faces import ImageProblem
from agegender.files import write_bytes
from agegender.predictions import FaceAnswer, ImageAnswer
from rich.markup import escape
from rich.table import Table

from agegender_client import Client
from agegender_client.cli.image_files import (
    FoundFiles,
    ImageFile,
    found_files,
    planned_outputs,
    shown_path,
)
from agegender_client.cli.output import AsJson, console, errors, plural, print_json, progress_bars, table

_AT_ONCE = 4
# What is wrong with one image does not stop the next; all else would be wrong with each of them.
_OF_THE_IMAGE = {400, 413, 415, 422}


def add_commands(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    images: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, metavar="[IMAGES]...", help="Image files, or folders with images."),
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Write each image with boxes and labels to this folder, arranged as given."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of --annotate.")] = False,
    webcam: Annotated[
        str | None, typer.Option(help="Number of a webcam, or a video file, instead of images.")
    ] = None,
    coverage: Annotated[float, typer.Option(min=0.5, max=0.99, help="Of the age interval.")] = 0.9,
    max_faces: Annotated[int | None, typer.Option(min=1, help="Of each image, the largest first.")] = None,
    min_face: Annotated[float, typer.Option(min=0, help="Leave out smaller faces, pixels.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Estimate age and gender of each face in images."""
    options = {"coverage": coverage, "max_faces": max_faces, "min_face": min_face}
    if webcam is not None:
        if images or annotate:
            raise typer.BadParameter("--webcam takes neither images nor --annotate")
        from agegender_client.cli.webcam import predict_live  # OpenCV is needed for this alone

        predict_live(webcam, options, as_json=as_json)
        return
    if not images:
        raise typer.BadParameter("give image files, folders with images, or --webcam 0")
    found = found_files(images, annotate)
    _report_skipped(found)
    outputs = {} if annotate is None else planned_outputs(found.files, annotate)
    if not overwrite:
        _require_new(outputs)
    failed = _predict_files(found.files, options, outputs, as_json=as_json)
    if annotate and not as_json:
        errors.print(f"Annotated images are in {escape(shown_path(annotate))}.")
    if failed or found.given_skipped:
        raise typer.Exit(1)


def _report_skipped(found: FoundFiles) -> None:
    """Ends with code 1 where there is nothing left to predict."""
    if summary := found.summary():
        errors.print(summary, markup=False, highlight=False)
    if not found.files:
        if not found.skipped:
            errors.print("There are no files in what was given.")
        raise typer.Exit(1)


def _require_new(outputs: dict[Path, Path]) -> None:
    existing = [path for path in outputs.values() if path.exists() or path.is_symlink()]
    if existing:
        raise typer.BadParameter(
            f"{plural(len(existing), 'file')} of --annotate would be replaced, such as "
            f"{shown_path(existing[0])}; give another folder, or --overwrite"
        )


def _predict_files(
    files: list[ImageFile], options: dict[str, Any], outputs: dict[Path, Path], *, as_json: bool
) -> int:
    """Print the answers; gives how many images have a problem."""
    shown = table("image", "face", "age", "interval", "gender", "quality")
    failed = 0
    with Client() as client, progress_bars(quiet=as_json or len(files) == 1) as bars:
        bar = bars.add_task("images", total=len(files), note="")
        for file, answer in _answers(client, files, options, outputs):
            failed += not answer.ok
            if as_json:
                entry = answer.model_dump(mode="json", exclude_none=True)
                if file.path in outputs and answer.ok:
                    entry["annotated"] = shown_path(outputs[file.path])
                print_json({"file": shown_path(file.path), **entry})
            else:
                _add_rows(shown, file, answer)
            bars.advance(bar)
    if not as_json:
        console.print(shown)
    return failed


def _answers(
    client: Client, files: list[ImageFile], options: dict[str, Any], outputs: dict[Path, Path]
) -> Iterator[tuple[ImageFile, ImageAnswer | ImageProblem]]:
    def ask(file: ImageFile) -> ImageAnswer | ImageProblem:
        try:
            content = file.path.read_bytes()
            answer = client.predict(content, **options)
            drawn = client.annotate(content, **options) if file.path in outputs else None
        except OSError as error:
            problem = Problem("unreadable-file", 400, f"The file cannot be read: {error.strerror}.")
            return ImageProblem(problem=problem.document())
        except Problem as problem:
            if problem.status not in _OF_THE_IMAGE or problem.slug == "bad-settings":
                raise
            return ImageProblem(problem=problem.document())
        if drawn is not None:
            _write(outputs[file.path], drawn)
        return answer

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield from zip(files, pool.map(ask, files), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _write(path: Path, content: bytes) -> None:
    try:
        write_bytes(path, content)
    except OSError as error:
        raise Problem(
            "output-not-writable", 500, f"{shown_path(path)} cannot be written: {error.strerror}."
        ) from error


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
    """Age, interval, gender and quality, as a table shows them."""
    low, high = interval(face.age.interval)
    share = face.gender.probability[face.gender.label]
    doubts = f" [dim]{', '.join(face.quality.reasons)}" if face.quality.reasons else ""
    return (
        years(face.age.mean),
        f"{low} to {high}",
        f"{face.gender.label} {certainty(share)}",
        f"{score(face.quality.score)}{doubts}",
    )
