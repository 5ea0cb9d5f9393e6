"""`agegender predictions`, and predictions as CSV rows: results as files for other programs."""

import csv
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Any, Self

import typer
from agegender.display import TableFormat
from agegender.faces import ImageProblem
from agegender.files import write_bytes
from agegender.predictions import FaceAnswer, ImageAnswer

from agegender_client import Client
from agegender_client.cli import AsJson, errors

RunIdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of an experiment.")]
# Columns of `agegender predict --csv`; docs/serving.md describes them.
FACE_COLUMNS = (
    "file", "face", "mean", "interval_low", "interval_high", "coverage", "group", "p_female", "quality",
    "reasons", "x1", "y1", "x2", "y2", "det_score", "whole", "problem",
)  # fmt: skip


def add_commands(app: typer.Typer) -> None:
    for command in (predictions,):
        app.command()(command)


def predictions(
    run_id: RunIdArgument,
    table_format: Annotated[
        TableFormat | None, typer.Option("--format", help="Format of the table. Default: csv.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write, such as predictions.parquet.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the prediction of each face of an experiment as a table: out of fold, with its labels."""
    suffixes: dict[str, TableFormat] = {".csv": "csv", ".parquet": "parquet", ".json": "json"}
    of_suffix = None if output is None else suffixes.get(output.suffix.lower())
    selected: TableFormat = "json" if as_json else table_format or of_suffix or "csv"
    if selected == "parquet" and output is None:
        raise typer.BadParameter("a Parquet file is not text; add --output FILE.parquet")
    with Client() as client:
        content = client.predictions(run_id, selected)
    if output is not None:
        write_bytes(output, content)
        errors.print(f"Written to {output}.", markup=False)
    else:
        print(content.decode().removesuffix("\r\n"))


class FaceTable:
    """A CSV file of predicted faces: one row per face, and one for an image without any.

    Rows are written as the images are predicted.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._rows = csv.DictWriter(file, FACE_COLUMNS)
        self._rows.writeheader()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, answer: ImageAnswer | ImageProblem) -> None:
        if isinstance(answer, ImageProblem):
            self._rows.writerow({"file": name, "problem": answer.problem["detail"]})
            return
        if not answer.faces:
            self._rows.writerow({"file": name, "problem": "no face"})
        for number, face in enumerate(answer.faces, 1):
            self._rows.writerow({"file": name, "face": number, **_cells(face)})


def _cells(face: FaceAnswer) -> dict[str, Any]:
    (low, high), box = face.age.interval, face.bbox
    return {
        "mean": face.age.mean,
        "interval_low": low,
        "interval_high": high,
        "coverage": face.age.coverage,
        "group": face.age.group,
        "p_female": face.gender.probability["female"],
        "quality": face.quality.score,
        "reasons": " ".join(face.quality.reasons),
        **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
        "det_score": face.det_score,
        "whole": str(face.whole).lower(),
    }
