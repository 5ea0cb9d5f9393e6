"""The steps of a video: search one segment with the predictor; join all tracks and write the answer."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from agegender.display import certainty, duration, interval, years
from agegender.errors import Problem
from agegender.files import read_model, write_json, write_text
from agegender.predictions import AgeGenderAnswer
from agegender.video.analysis import Analysis, Progress, VideoAnswer, persons_csv, video_answer
from agegender.video.decoding import open_video
from agegender.video.drawing import Paths, annotate, summary_svg
from agegender.video.persons import Appearance, Person, Track
from agegender.video.tracks import longest_gap
from agegender_service.faces_client import BlockingFacesClient
from pydantic import BaseModel

from trainer.reports.contents import Table
from trainer.reports.report import as_page, table_lines
from trainer.runs.attempt import Attempt, PutOff
from trainer.runs.run import REPORT
from trainer.settings import TrainerSettings
from trainer.videos.video import (
    ANNOTATED,
    ANSWER,
    PERSONS,
    RESULT,
    SEGMENTS,
    SUMMARY,
    VideoResult,
    VideoRun,
    segment_path,
    source_path,
    video_dir,
)

_PATIENCE_SECONDS = 300.0  # pauses between attempts at a predictor that is away, before the step waits
_LISTED = 500  # persons in the report; the table has all


class Segment(BaseModel):
    """segments/K.json: what a segment contains. It has embeddings, so it is deleted with the answer."""

    progress: Progress
    tracks: list[Track]


def search(settings: TrainerSettings, run: VideoRun, segment: int, attempt: Attempt) -> None:
    """Track the faces of a segment, and write its tracks.

    Raises `GivenUp` if the attempt must stop or the predictor is unavailable, the problems of `open_video`,
    and other problems of the predictor.
    """
    options = run.options
    parameters = {"embeddings": "true", "coverage": str(options.coverage)}
    if options.max_faces is not None:
        parameters["max_faces"] = str(options.max_faces)
    start = segment * options.segment_seconds
    last = segment == run.segments - 1  # it takes the rest: a container may state too short a duration
    tracks: list[Track] = []
    try:
        with (
            BlockingFacesClient(
                settings.predictor_url,
                service="predictor",
                headers=settings.service_headers,
                patience=_PATIENCE_SECONDS,
            ) as client,
            open_video(source_path(settings.data_dir, run)) as video,
        ):

            def observe(images: Sequence[bytes], min_face: float) -> AgeGenderAnswer:
                return client.age_gender(images, {**parameters, "min_face": str(min_face)})

            end = None if last else start + options.segment_seconds
            analysis = Analysis(
                video, observe, options.every, options.coverage, start, end, min_face=options.min_face
            )
            for moment in analysis.moments():
                tracks += moment.ended
                attempt.write({"seconds": round(moment.seconds - start, 1), "faces": len(moment.live)})
            tracks += analysis.close()
    except Problem as problem:
        if problem.retry_after is None:
            raise
        attempt.write({"waiting_for": problem.detail}, last=True)
        raise PutOff(problem.detail) from problem
    if not options.annotated:
        tracks = [track.model_copy(update={"path": []}) for track in tracks]
    attempt.check()
    found = Segment(progress=analysis.progress, tracks=tracks)
    write_text(segment_path(video_dir(settings.data_dir, run.id), segment), found.model_dump_json())


def write_answer(data_dir: Path, run: VideoRun, attempt: Attempt) -> None:
    """Join the tracks of all segments, write the answer, delete the tracks, and write the report.

    The step may end anywhere and run again: the answer appears after all that needs the tracks, and
    report.json last. Raises ``space-mismatch`` 409 if the embedder changed meanwhile, and `GivenUp`.
    """
    directory = video_dir(data_dir, run.id)
    if not (directory / ANSWER).exists():
        answer, tracks = _joined(directory, run)
        attempt.check()
        if run.options.annotated:
            annotate(
                source_path(data_dir, run),
                directory / ANNOTATED,
                answer.persons,
                Paths(tracks, _gap(run)),
                until=None if answer.complete else answer.analysed_seconds,
                progress=lambda seconds: attempt.write({"drawn_seconds": round(seconds, 1)}),
            )
        answer = _without_borders(answer, run)
        write_text(directory / PERSONS, persons_csv(answer.persons))
        write_text(directory / SUMMARY, summary_svg(answer))
        attempt.check()
        write_text(directory / ANSWER, answer.model_dump_json(indent=1))
    shutil.rmtree(directory / SEGMENTS, ignore_errors=True)
    _write_reports(directory, run, read_model(directory / ANSWER, VideoAnswer))


def _joined(directory: Path, run: VideoRun) -> tuple[VideoAnswer, list[Track]]:
    tracks: list[Track] = []
    whole = Progress(complete=True)
    for number in range(run.segments):
        segment = read_model(segment_path(directory, number), Segment)
        tracks += [
            track.model_copy(update={"track": len(tracks) + position})
            for position, track in enumerate(segment.tracks, 1)
        ]
        whole = _together(whole, segment.progress)
    answer = video_answer(
        run.file,
        run.video,
        whole,
        tracks,
        run.options.coverage,
        every=run.options.every,
        embeddings=run.options.embeddings,
    )
    return answer, tracks


def _gap(run: VideoRun) -> float:
    return longest_gap(run.options.every, run.video.frame_rate)


def _without_borders(answer: VideoAnswer, run: VideoRun) -> VideoAnswer:
    """Return the answer with one appearance for each two of a person that only a segment's border divides."""
    length, most = run.options.segment_seconds, _gap(run)
    persons = []
    for person in answer.persons:
        appearances: list[Appearance] = []
        for one in person.appearances:
            last = appearances[-1] if appearances else None
            border = last is not None and last.last // length < one.first // length
            if last is not None and border and one.first - last.last <= most:
                appearances[-1] = last.model_copy(update={"last": one.last})
            else:
                appearances.append(one)
        seconds = round(sum(one.last - one.first for one in appearances), 3)
        changes = {"appearances": appearances, "seconds_visible": seconds}
        persons.append(person.model_copy(update=changes))
    return answer.model_copy(update={"persons": persons})


def _together(one: Progress, next_: Progress) -> Progress:
    """Return the progress of two consecutive parts. Raises ``space-mismatch`` 409."""
    if one.space is not None and next_.space is not None:
        one.space.require(next_.space)
    models = dict(one.models)
    for task, version in next_.models.items():
        known = models.get(task, version).split(", ")  # heads may be promoted between two segments
        models[task] = ", ".join(dict.fromkeys([*known, version]))
    return Progress(
        space=one.space or next_.space,
        models=models,
        seconds=max(one.seconds, next_.seconds),
        frames=one.frames + next_.frames,
        complete=one.complete and next_.complete,
        problem=one.problem or next_.problem,
    )


def _write_reports(directory: Path, run: VideoRun, answer: VideoAnswer) -> None:
    """Write the report in its three forms; report.json last, because it marks the run as finished."""
    warnings = []
    if not answer.complete:
        reason = str((answer.problem or {}).get("detail", "A part of it cannot be decoded."))
        at = duration(answer.analysed_seconds)
        warnings.append(f"Incomplete: the last searched frame is at {at}. {reason}")
    if any("," in version for version in answer.models.values()):
        warnings.append("Other heads were promoted during the search, so the answers are of several heads.")
    result = VideoResult(
        persons=len(answer.persons),
        analysed_seconds=answer.analysed_seconds,
        searched_frames=answer.searched_frames,
        complete=answer.complete,
        omitted=answer.omitted,
        warnings=warnings,
    )
    title = f"Video {run.file.replace('|', '_')}"
    heads = ", ".join(answer.models.values()) or "none"
    paragraphs = [
        f"{result.persons} persons in {duration(answer.analysed_seconds)}; {result.searched_frames} frames "
        f"were searched. Heads: {heads}.",
        *warnings,
    ]
    persons = Table(
        "Persons",
        ["person", "first", "last", "visible", "age", "interval", "gender", "faces"],
        [_row(person) for person in answer.persons[:_LISTED]],
        "" if len(answer.persons) <= _LISTED else f"The first {_LISTED}; the CSV file has all.",
    )
    text = "\n".join([f"# {title}", *(f"\n{one}" for one in paragraphs), *table_lines([persons])]) + "\n"
    plots = [("Persons over time", summary_svg(answer))]
    write_json(directory / RESULT, result.model_dump(mode="json"))
    write_text(directory / "report.md", text)
    write_text(directory / "report.html", as_page(title, paragraphs, plots, [persons]))
    report = {"format": 1, "video": run.model_dump(mode="json"), "result": result.model_dump(mode="json")}
    write_json(directory / REPORT, report)


def _row(person: Person) -> list[str]:
    low, high = interval(person.age.interval)
    share = person.gender.probability[person.gender.label]
    return [
        str(person.person),
        f"{person.first:.1f} s",
        f"{person.last:.1f} s",
        f"{person.seconds_visible:.1f} s",
        years(person.age.mean),
        f"{low} to {high}",
        f"{person.gender.label} {certainty(share)}",
        str(person.faces),
    ]
