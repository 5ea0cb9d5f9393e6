"""`agegender video`: one answer per person of a video file, a camera or a stream."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from agegender.display import certainty, duration, interval, score, years
from agegender.errors import Problem
from rich.live import Live
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from agegender_client import Client
from agegender_client.cli import (
    AsJson,
    OutputFile,
    OverwriteOption,
    console,
    errors,
    is_stream,
    print_json,
    progress_bars,
    require_new,
    shown_path,
    table,
    write_output,
)
from agegender_client.cli.runs import follow

if TYPE_CHECKING:
    from agegender.predictions import AgeGenderAnswer
    from agegender.video.analysis import Analysis, Moment, VideoAnswer
    from agegender.video.decoding import Video
    from agegender.video.drawing import Paths
    from agegender.video.persons import Answer, Track


@dataclass
class _Outputs:
    """The files to write, if any."""

    csv_file: Path | None
    annotate: Path | None
    summary: Path | None
    overwrite: bool

    def check(self, source: str, suffixes: tuple[str, ...], *, live: bool) -> None:
        """Reject outputs that cannot be written, before any work is done."""
        if self.annotate is not None:
            if live:
                raise typer.BadParameter("--annotate needs a video file, because it reads the video twice")
            if self.annotate.suffix.lower() not in suffixes:
                raise typer.BadParameter(
                    f"got --annotate {self.annotate.name}; expected a name that ends in {', '.join(suffixes)}"
                )
        paths = [path for path in (self.csv_file, self.annotate, self.summary) if path is not None]
        for path in paths:
            if not live and os.path.realpath(path) == os.path.realpath(source):
                raise typer.BadParameter(f"{shown_path(path)} is the video itself; choose another name")
        require_new(paths, overwrite=self.overwrite)
        for path in paths:
            if not is_stream(path):
                OutputFile(path).discard()


@dataclass
class _Watched:
    """The tracks of a video so far."""

    tracks: "list[Track]" = field(default_factory=list)
    problem: Problem | None = None
    stopped: bool = False


def add_commands(app: typer.Typer) -> None:
    app.command()(video)


def video(
    source: Annotated[
        str, typer.Argument(help="A video file, rtsp://…, or a camera: its number or /dev/video0.")
    ],
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write a table to this file, one row per person.")
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write a copy with labels: .mp4, .mkv, .mov or .webm."),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write a plot of the persons over time to this SVG file."),
    ] = None,
    overwrite: OverwriteOption = False,
    every: Annotated[
        float, typer.Option(min=0.02, max=10, help="Seconds between two frames that are searched for faces.")
    ] = 0.4,
    until: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after this many seconds of the video.")
    ] = None,
    coverage: Annotated[float, typer.Option(min=0.5, max=0.99, help="Coverage of the age interval.")] = 0.9,
    max_faces: Annotated[int | None, typer.Option(min=1, help="Maximum faces per frame.")] = None,
    min_face: Annotated[
        float, typer.Option(min=0, help="Minimum size of a face, in the video's pixels.")
    ] = 0,
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="With --json: also each person's mean embedding, biometric data."),
    ] = False,
    on_server: Annotated[
        bool,
        typer.Option("--on-server", help="Upload the file; the trainer's workers search it in parallel."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Estimate age and gender of each person in a video. Ctrl-C stops, and prints what was found until then.

    Live sources (cameras and streams) are answered as they are watched. With --json, each searched frame of
    a live source is one line, and the last line has the persons.
    """
    try:
        from agegender.video.analysis import Analysis, persons_csv, video_answer
        from agegender.video.decoding import is_live, open_video
        from agegender.video.drawing import SUFFIXES, Paths, summary_svg
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"{error.name} is missing, which reads videos: pip install './shared[cli,video]'"
        ) from None
    outputs = _Outputs(csv_file, annotate, summary, overwrite)
    outputs.check(source, SUFFIXES, live=is_live(source))
    options: dict[str, Any] = {"coverage": coverage, "embeddings": True}
    if max_faces is not None:
        options["max_faces"] = max_faces
    if on_server:
        if is_live(source) or until is not None:
            raise typer.BadParameter("--on-server answers whole video files; omit --until")
        if annotate is not None and annotate.suffix.lower() != ".mp4":
            raise typer.BadParameter(f"got --annotate {annotate.name}; --on-server writes .mp4")
        request = {**options, "every": every, "min_face": min_face, "embeddings": embeddings}
        request["annotated"] = annotate is not None
        _answer_on_server(source, outputs, request, as_json=as_json)
        return
    with ExitStack() as opened:
        client = opened.enter_context(Client())
        reading = opened.enter_context(open_video(source))

        def observe(images: Sequence[bytes], least: float) -> "AgeGenderAnswer":
            return client.predict(list(images), min_face=least, **options)

        analysis = Analysis(reading, observe, every, coverage, end=until, min_face=min_face)
        paths = Paths(gap=analysis.gap)
        show = _show_live if reading.info.live else _show_progress
        watched = show(reading, analysis, paths if annotate else None, as_json=as_json)
        progress = analysis.progress
        if watched.problem is not None:
            stopped_by = {"complete": False, "problem": watched.problem.document()}
            progress = progress.model_copy(update=stopped_by)
        name = reading.name if reading.info.live else Path(source).name
        answer = video_answer(
            name, reading.info, progress, watched.tracks, coverage, every=every, embeddings=embeddings
        )
    _print(answer, as_json=as_json)
    if answer.searched_frames:
        if csv_file is not None:
            write_output(csv_file, persons_csv(answer.persons))
        if summary is not None:
            write_output(summary, summary_svg(answer))
        if annotate is not None:
            _annotate(source, annotate, answer, paths, until, quiet=as_json)
        for path in filter(None, (csv_file, summary, annotate)):
            if not as_json:
                errors.print(f"Written to {escape(shown_path(path))}.")
    _finish(answer, watched, as_json=as_json)


def _answer_on_server(source: str, outputs: _Outputs, options: dict[str, Any], *, as_json: bool) -> None:
    """Upload a file, follow its run, and write the outputs. Exits with 1 for an incomplete video."""
    from agegender.video.analysis import VideoAnswer

    with Client() as client:
        try:
            run = client.create_video(source, **options)
        except OSError as error:
            raise Problem("no-such-video", 404, f"{source} cannot be read: {error.strerror}.") from error
        if not as_json:
            errors.print(f"Video [bold]{run.id}[/]")
        follow(client, run.id, quiet=as_json)
        answer = VideoAnswer.model_validate_json(client.video_answer(run.id))
        _print(answer, as_json=as_json)
        if outputs.csv_file is not None:
            write_output(outputs.csv_file, client.video_answer(run.id, "csv"))
        if outputs.summary is not None:
            write_output(outputs.summary, client.video_answer(run.id, "summary"))
        if outputs.annotate is not None:
            write_output(outputs.annotate, client.video_answer(run.id, "annotated"))
    if not as_json:
        errors.print(f"The server keeps the video until: agegender cancel {run.id} --delete")
    _finish(answer, _Watched(), as_json=as_json)


def _watch(analysis: "Analysis", paths: "Paths | None", seen: "Callable[[Moment, int], None]") -> _Watched:
    """Analyse until the end, Ctrl-C or a problem. Tracks keep their paths in `paths` alone."""
    watched = _Watched()

    def add(tracks: "list[Track]") -> None:
        for track in tracks:
            if paths is not None:
                paths.add(track)
            watched.tracks.append(track.model_copy(update={"path": []}))

    try:
        for moment in analysis.moments():
            add(moment.ended)
            seen(moment, len(watched.tracks) + len(moment.live))
    except KeyboardInterrupt:
        watched.stopped = True
    except Problem as problem:
        if not analysis.searched:
            raise
        watched.problem = problem
    add(analysis.close())
    return watched


def _show_progress(
    reading: "Video", analysis: "Analysis", paths: "Paths | None", *, as_json: bool
) -> _Watched:
    total = reading.info.seconds
    if analysis.end is not None:
        total = min(total or analysis.end, analysis.end)
    started = time.monotonic()
    with progress_bars(quiet=as_json) as bars:
        bar = bars.add_task("seconds", total=None if total is None else round(total), note="")

        def seen(moment: "Moment", tracks: int) -> None:
            speed = moment.seconds / max(time.monotonic() - started, 1e-3)
            note = f"{len(moment.live)} faces now, {speed:.1f} x real time"
            bars.update(bar, completed=round(moment.seconds), note=note)

        watched = _watch(analysis, paths, seen)
        if analysis.finished and total is not None:
            bars.update(bar, completed=round(total), note="")
        return watched


def _show_live(reading: "Video", analysis: "Analysis", paths: "Paths | None", *, as_json: bool) -> _Watched:
    if as_json:

        def printed(moment: "Moment", tracks: int) -> None:
            faces = [face.model_dump(mode="json") for face in moment.live]
            print_json({"seconds": round(moment.seconds, 3), "faces": faces})

        return _watch(analysis, paths, printed)
    with Live(console=console, auto_refresh=False, transient=True) as screen:

        def seen(moment: "Moment", tracks: int) -> None:
            shown = table("track", "age", "interval", "gender", "faces")
            for face in moment.live:
                shown.add_row(str(face.track), *_cells(face.answer), str(face.answer.faces))
            screen.update(shown, refresh=True)

        return _watch(analysis, paths, seen)


def _cells(answer: "Answer") -> tuple[str, str, str]:
    low, high = interval(answer.age.interval)
    share = answer.gender.probability[answer.gender.label]
    return years(answer.age.mean), f"{low} to {high}", f"{answer.gender.label} {certainty(share)}"


def _print(answer: "VideoAnswer", *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    if not answer.persons:
        console.print("No person was found.")
        return
    shown: Table = table("person", "from", "to", "visible", "age", "interval", "gender", "quality")
    for person in answer.persons:
        shown.add_row(
            str(person.person),
            _clock(person.first),
            _clock(person.last),
            duration(person.seconds_visible),
            *_cells(person),
            score(person.best.quality),
        )
    console.print(shown)


def _clock(seconds: float) -> str:
    """Format a time of a video: 1:02:03.4."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _annotate(
    source: str,
    target: Path,
    answer: "VideoAnswer",
    paths: "Paths",
    until: float | None,
    *,
    quiet: bool,
) -> None:
    from agegender.video.drawing import annotate

    bars: Progress
    with progress_bars(quiet=quiet) as bars, tempfile.TemporaryDirectory() as folder:
        bar: TaskID = bars.add_task("drawing", total=round(answer.analysed_seconds), note="")
        through = is_stream(target)  # a video is not written from its beginning to its end
        made = Path(folder, f"annotated{target.suffix}") if through else Path(os.path.realpath(target))
        annotate(
            source,
            made,
            answer.persons,
            paths,
            until=until if answer.complete else answer.analysed_seconds,
            progress=lambda seconds: bars.update(bar, completed=round(seconds)),
        )
        if through:
            with made.open("rb") as file, OutputFile(target) as output:
                shutil.copyfileobj(file, output)


def _finish(answer: "VideoAnswer", watched: _Watched, *, as_json: bool) -> None:
    """Report why a video is incomplete. Exits with 1 if it is; a live source ends at Ctrl-C."""
    if answer.complete or (answer.video.live and watched.stopped):
        return
    if not as_json:
        problem = answer.problem or {}
        reason = str(problem.get("detail") or "Stopped.")
        at = duration(answer.analysed_seconds)
        errors.print(f"[yellow]Incomplete:[/] the answers are those of the first {at}. ", end="")
        errors.print(reason, markup=False, highlight=False)
    raise typer.Exit(1)
