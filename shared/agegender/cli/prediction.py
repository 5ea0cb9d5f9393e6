"""`agegender predict`: pictures, folders of them, or a webcam."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from agegender.cli.output import AsJson, console, errors, print_json, progress_bars, table
from agegender.client import Client
from agegender.errors import Problem
from agegender.faces import ImageProblem
from agegender.files import write_bytes
from agegender.predictions import FaceAnswer, ImageAnswer

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_AT_ONCE = 4
# What is wrong with one picture does not stop the next; all else would be wrong with each of them.
_OF_THE_PICTURE = {400, 413, 415, 422}


def add_commands(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    pictures: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="Picture files, or folders with pictures.")
    ] = None,
    annotate: Annotated[
        Path | None, typer.Option(help="Write each picture with boxes and labels to this folder.")
    ] = None,
    webcam: Annotated[
        str | None, typer.Option(help="Number of a webcam, or a video file, instead of pictures.")
    ] = None,
    coverage: Annotated[float, typer.Option(min=0.5, max=0.99, help="Of the age interval.")] = 0.9,
    max_faces: Annotated[int | None, typer.Option(min=1, help="Of each picture, the largest first.")] = None,
    min_face: Annotated[float, typer.Option(min=0, help="Leave out smaller faces, pixels.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Tell age and gender of each face in pictures."""
    options = {"coverage": coverage, "max_faces": max_faces, "min_face": min_face}
    if webcam is not None:
        from agegender.cli.webcam import predict_live  # OpenCV is needed for this alone

        predict_live(webcam, options, as_json=as_json)
        return
    files = list(_files(pictures or []))
    if not files:
        raise typer.BadParameter("give picture files, folders with pictures, or --webcam 0")
    shown = table("picture", "face", "age", "interval", "gender", "quality")
    failed = 0
    with Client() as client, progress_bars(quiet=as_json or len(files) == 1) as bars:
        bar = bars.add_task("pictures", total=len(files), note="")
        for file, answer in _answers(client, files, options, annotate):
            failed += isinstance(answer, ImageProblem)
            if as_json:
                print_json({"file": str(file), **answer.model_dump(mode="json", exclude_none=True)})
            else:
                _add_rows(shown, file, answer)
            bars.advance(bar)
    if not as_json:
        console.print(shown)
    if annotate and not as_json:
        errors.print(f"Annotated pictures are in {annotate}.")
    if failed:
        raise typer.Exit(1)


def _files(given: list[Path]) -> Iterator[Path]:
    for path in given:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
        else:
            yield path


def _answers(
    client: Client, files: list[Path], options: dict[str, Any], annotate: Path | None
) -> Iterator[tuple[Path, ImageAnswer | ImageProblem]]:
    def ask(file: Path) -> ImageAnswer | ImageProblem:
        content = file.read_bytes()
        try:
            answer = client.predict([content], **options).images[0]
            if annotate is not None:
                drawn = client.annotate(content, **options)
                write_bytes(annotate / f"{file.stem}-annotated.png", drawn)
        except Problem as problem:
            if problem.status not in _OF_THE_PICTURE:
                raise
            return ImageProblem(problem=problem.document())
        return answer

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield from zip(files, pool.map(ask, files), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _add_rows(shown: Table, file: Path, answer: ImageAnswer | ImageProblem) -> None:
    if isinstance(answer, ImageProblem):
        shown.add_row(file.name, "", f"[red]{answer.problem['detail']}")
        return
    name = f"{file.name} [dim]turned {answer.rotation}°" if answer.rotation else file.name
    if not answer.faces:
        shown.add_row(name, "", "[dim]no face")
    for number, face in enumerate(answer.faces, 1):
        shown.add_row(name if number == 1 else "", str(number), *cells(face))


def cells(face: FaceAnswer) -> tuple[str, str, str, str]:
    """Age, interval, gender and quality, as a table shows them."""
    low, high = face.age.interval
    share = min(0.99, face.gender.probability[face.gender.label])
    doubts = f" [dim]{', '.join(face.quality.reasons)}" if face.quality.reasons else ""
    return (
        f"{face.age.mean:.0f}",
        f"{low:.0f} to {high:.0f}",
        f"{face.gender.label} {share:.0%}",
        f"{face.quality.score:.2f}{doubts}",
    )
