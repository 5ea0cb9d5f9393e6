"""The `agegender` command line, and what its commands share: consoles, JSON, tables, output files."""

import json
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from agegender.display import duration, percent
from agegender.errors import Problem
from agegender.faces import WhichFaces
from pydantic import BaseModel

from agegender_client import Client
from agegender_client.responses import Evaluation, Experiment, Fold, Search, VideoRun

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ModuleNotFoundError as error:
    raise SystemExit(
        f"error: {error.name} is missing. Install the command: pip install './shared[cli]'"
    ) from None

console = Console()
errors = Console(stderr=True, soft_wrap=True)

Run = Experiment | Search | Evaluation | VideoRun

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, one value per line.")]
NearDuplicates = Annotated[
    str | None,
    typer.Option(
        help="Faces that count as one subject: off, photographs (copies of a photograph) or persons."
    ),
]
SubjectsFrom = Annotated[
    str | None, typer.Option(help="Copy unknown subjects from the extraction in this space.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing files.")]
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


def print_failures(run: Run) -> None:
    if not isinstance(run, Experiment):
        if run.problem:
            errors.print(run.problem, markup=False)
        return
    for name, fold in named_folds(run).items():
        if fold.problem:
            errors.print(f"[red]{name} failed:[/] {escape(fold.problem)}")


def print_runs(found: Sequence[Run], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    named = any(isinstance(run, Experiment) and run.name for run in found)
    experiments = table(
        "experiment", *(["name"] if named else []), "state", "task", "data sets", "space", "folds", "promoted"
    )
    searches = table("search", "state", "data sets", "trials", "best")
    evaluations = table("evaluation", "state", "data set", "space", "coverage")
    videos = table("video", "state", "file", "searched", "persons")
    for run in found:
        if isinstance(run, Search):
            trials = f"{ended_trials(run)}/{len(run.trials)}"
            searches.add_row(run.id, run.state, ", ".join(run.datasets), trials, best_value(run))
        elif isinstance(run, Evaluation):
            coverage = next((one.coverage for one in run.results.values() if one.coverage is not None), None)
            shown = "" if coverage is None else percent(coverage)
            evaluations.add_row(run.id, run.state, run.dataset, run.space.id, shown)
        elif isinstance(run, VideoRun):
            persons = "" if run.result is None else str(run.result.persons)
            videos.add_row(run.id, run.state, escape(run.file), duration(run.seconds), persons)
        else:
            finished = sum(fold.state == "finished" for fold in run.folds)
            folds, promoted = f"{finished}/{len(run.folds)}", ", ".join(run.promoted)
            row = (
                run.id,
                *([escape(run.name or "")] if named else []),
                run.state,
                run.task,
                ", ".join(run.datasets),
                run.space.id,
                folds,
                promoted,
            )
            experiments.add_row(*row)
    for shown_table in (experiments, searches, evaluations, videos):
        shown_table.columns[0].no_wrap = True  # an id is copied as a whole
    filled = [one for one in (searches, evaluations, videos) if one.row_count]
    console.print(filled[0] if filled else experiments)


def print_end(run_id: str, run: Run, state: str, *, as_json: bool) -> None:
    print_json(run) if as_json else console.print(f"{run_id} {state}.")


def sections(report: str, heading: str) -> str:
    """Return the sections of a Markdown report whose headings start with `heading`."""
    return "\n".join(f"## {part}" for part in report.split("\n## ") if part.startswith(heading))


def named_folds(experiment: Experiment) -> dict[str, Fold]:
    """Return everything that the experiment trains, by the name that is shown."""
    refits = {"All faces" if one.fold is None else f"All but {one.fold}": one for one in experiment.refits}
    return {f"Fold {one.fold}": one for one in experiment.folds} | refits


def ended_trials(search: Search) -> int:
    ended = {"finished", "pruned", "failed"}
    return sum(trial.state in ended for trial in search.trials)


def best_value(search: Search) -> str:
    return f"best {search.best['value']:.4g}" if search.best else ""


def shown_path(path: Path) -> str:
    """Return the path as printable text, even if its name is not valid UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def is_stream(path: Path) -> bool:
    """Return whether data for a path go through it: a pipe, a device, or what this command prints to."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):  # /dev/stdout of a redirected command is one too
            return any(os.path.samestat(status, os.fstat(descriptor)) for descriptor in (1, 2))
    except OSError:
        return False
    return not stat.S_ISDIR(status.st_mode)


def require_new(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Raise `typer.BadParameter` if a file would be overwritten unasked."""
    existing = [path for path in paths if os.path.lexists(path) and not is_stream(path)]
    existing = [path for path in existing if not os.path.isdir(path)]  # noqa: PTH112  no error for long names
    if existing and not overwrite:
        first = shown_path(existing[0])
        which = first if len(existing) == 1 else f"{plural(len(existing), 'file')}, such as {first},"
        raise typer.BadParameter(f"{which} would be overwritten; choose another name, or add --overwrite")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise errors of the block as the problem ``output-not-writable`` 500 of this path."""
    try:
        yield
    except OSError as error:
        detail = f"{shown_path(path)} cannot be written: {error.strerror or error}."
        raise Problem("output-not-writable", 500, detail) from error


class OutputFile:
    """A file that a command writes. It gets its name when it is complete; until then the old file stays.

    Links are followed. Pipes and devices are written directly. The folder must exist. As a context manager,
    it is finished at the end of the block, and discarded after an error.

    Raises ``output-not-writable`` 500.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._target = Path(os.path.realpath(path))
        self._part: Path | None = None  # the temporary file
        with writing(path):
            if is_stream(path):
                self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb")
                return
            mode = None
            with suppress(FileNotFoundError):
                mode = self._target.stat().st_mode
            if mode is not None and stat.S_ISDIR(mode):
                raise IsADirectoryError(None, "it is a folder")
            self._part = self._target.with_name(f".{uuid.uuid4().hex}.part")
            self._file = self._part.open("xb")
            if mode is not None:
                with suppress(OSError):
                    self._part.chmod(stat.S_IMODE(mode))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.discard()  # nothing is left to remove once the file is finished

    def write(self, content: str | bytes) -> int:
        with writing(self._path):
            return self._file.write(content.encode() if isinstance(content, str) else content)

    def finish(self) -> None:
        """Give the file its name."""
        with writing(self._path):
            self._file.flush()
            if self._part is not None:
                os.fsync(self._file.fileno())
            self._file.close()
            if self._part is not None:
                self._part.replace(self._target)
                self._part = None

    def keep(self) -> Path:
        """Keep what was written of an incomplete file, beside it. Returns the name: ``faces.partial.csv``."""
        with suppress(OSError):
            self._file.close()
        if self._part is None:
            return self._path
        part, self._part = self._part, None
        number, stem, suffix = 1, self._target.stem, self._target.suffix
        kept = self._target.with_name(f"{stem}.partial{suffix}")
        while os.path.lexists(kept):
            number += 1
            kept = self._target.with_name(f"{stem}.partial-{number}{suffix}")
        with suppress(OSError):
            part = part.rename(kept)
        return part

    def discard(self) -> None:
        """Remove what was written, so that the path is as it was before."""
        with suppress(OSError):
            self._file.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)


def write_output(path: Path, content: str | bytes) -> None:
    with OutputFile(path) as file:
        file.write(content)


def save(path: Path, read: Callable[[], str | bytes], *, overwrite: bool, note: str = "") -> None:
    """Write what `read` returns to a file, and print its name with the note."""
    require_new([path], overwrite=overwrite)
    with OutputFile(path) as file:  # before the request: it may take long
        file.write(read())
    errors.print(f"Written to {shown_path(path)}{note}.", markup=False, highlight=False)
