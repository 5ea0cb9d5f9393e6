"""A video as a kind of run: the request, its record `videos/<id>/video.json`, its files, its status.

FFmpeg is a million lines of C, and a video comes from anybody. So the API does not open one in its own
process: `described` does it in another, which is this module as a program.

In videos/<id>/ beside the record:

- source/NAME: the uploaded video. A video that the user put into videos/ stays there.
- segments/K.json: the tracks of a segment, with embeddings; deleted when the answer is written.
- steps/: progress of the attempts.
- answer.json, persons.csv, summary.svg, and annotated.mp4 if requested: the answer, then the report.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import structlog
from agegender.errors import Problem, not_found
from agegender.spaces import NAME
from agegender.video.decoding import VideoInfo, open_video
from pydantic import BaseModel, ConfigDict, Field

from trainer.datasets.uploads import STALE_SECONDS
from trainer.runs.attempt import PROGRESS, clear_failure, renew_attempts
from trainer.runs.run import (
    FAILURE,
    REPORT,
    Kind,
    Run,
    RunStatus,
    State,
    Step,
    folders_with,
    load_record,
    new_id,
    read_optional,
    save_record,
)

log = structlog.get_logger(__name__)

RECORD, ANSWER, RESULT = "video.json", "answer.json", "result.json"
PERSONS, SUMMARY, ANNOTATED = "persons.csv", "summary.svg", "annotated.mp4"
SOURCE, SEGMENTS, STEPS, JOIN = "source", "segments", "steps", "join"
PREFIX = "video-"  # of the ids
_AT_ONCE = 32  # segments in the queue, so that a long video does not fill it
_SEGMENT_SECONDS, _JOIN_SECONDS = 3600, 12 * 3600  # time limits of the jobs
_MAX_NAME = 100
OPENING_SECONDS: Final = 60.0  # to open a file on a slow volume, and to decode its first frame
OPENING_MEMORY: Final = 3 * 1024**3 // 2  # of address space; 8,192 x 4,320 pixels in H.265 need half
OPENING_PROGRAM: tuple[str, ...] = (sys.executable, "-P", "-m", __name__)
_READING_SECONDS = 20.0  # to read all time stamps of a container without an index
_UNUSUAL = re.compile(r"[^\w.()+ -]+")


class VideoOptions(BaseModel):
    """Determine how a video is searched and answered."""

    model_config = ConfigDict(extra="forbid")

    every: float = Field(0.4, ge=0.02, le=10, description="seconds between two frames searched for faces")
    coverage: float = Field(0.9, ge=0.5, le=0.99, description="of the age intervals")
    max_faces: int | None = Field(None, ge=1, le=1000, description="maximum faces per frame")
    min_face: float = Field(0, ge=0, le=10_000, description="minimum size of a face in pixels of the video")
    annotated: bool = Field(False, description="also write a copy of the video with a label per person")
    embeddings: bool = Field(
        False, description="keep each person's mean embedding, which is biometric data, in the answer"
    )
    segment_seconds: float = Field(
        60, ge=2, le=3600, description="length of the segments that workers search at the same time"
    )


class VideoRun(Run):
    """video.json. Only `cancelled` changes after it is created."""

    file: str = Field(description="name of the video")
    uploaded: bool = Field(description="whether it is deleted with the run")
    size: int = Field(description="bytes")
    video: VideoInfo
    segments: int
    options: VideoOptions


class VideoResult(BaseModel):
    """result.json, written before the report: the answer in short."""

    persons: int
    analysed_seconds: float = Field(description="time of the last searched frame")
    searched_frames: int
    complete: bool = Field(description="whether the whole video was searched")
    omitted: int = Field(description="tracks with too little evidence for an answer")
    warnings: list[str] = Field(default_factory=list)


class VideoStatus(RunStatus):
    state: State
    file: str
    uploaded: bool
    size: int
    video: VideoInfo
    options: VideoOptions
    segments: int
    segments_done: int
    seconds: float = Field(description="of the video, searched so far")
    result: VideoResult | None = Field(None, description="once finished")
    waiting_for: str | None = Field(None, description="what the search waits for, if it does")
    warnings: list[str] = Field(default_factory=list)
    problem: str | None = None


@dataclass(frozen=True)
class Videos(Kind[VideoRun, VideoStatus]):
    """The kind of run, with its jobs. A deleted run is gone at once: it shows people."""

    search_segment: Callable[[str, int], None]
    answer: Callable[[str], None]

    name: ClassVar[str] = "video"
    article: ClassVar[str] = "a"
    path: ClassVar[str] = "videos"
    has_trash: ClassVar[bool] = False

    def names(self, data_dir: Path) -> list[str]:
        return folders_with(data_dir / "videos", RECORD)

    def record_path(self, data_dir: Path, name: str) -> Path:
        return video_dir(data_dir, name) / RECORD

    def load(self, data_dir: Path, name: str) -> VideoRun:
        return load_record(self.record_path(data_dir, name), VideoRun, self.name, name)

    def save(self, data_dir: Path, run: VideoRun) -> None:
        save_record(self.record_path(data_dir, run.id), run)

    def steps(self, data_dir: Path, run: VideoRun) -> Iterator[Step]:
        """Yield the next missing segments or, if there are none, the answer."""
        directory = video_dir(data_dir, run.id)
        if run.cancelled or (directory / REPORT).exists() or (directory / FAILURE).exists():
            return
        missing = [] if (directory / ANSWER).exists() else list(_missing(directory, run))
        for segment in missing[:_AT_ONCE]:
            job_id = f"{run.id}-segment-{segment}"
            limit = _SEGMENT_SECONDS if run.segments > 1 else _JOIN_SECONDS
            yield Step(job_id, self.search_segment, (run.id, segment), limit)
        if not missing:
            yield Step(f"{run.id}-answer", self.answer, (run.id,), _JOIN_SECONDS)

    def status(self, data_dir: Path, run: VideoRun) -> VideoStatus:
        directory = video_dir(data_dir, run.id)
        failure = read_optional(directory / FAILURE)
        found = read_optional(directory / RESULT) if (directory / REPORT).exists() else None
        result = None if found is None else VideoResult.model_validate(found)
        state: State = "running" if (directory / STEPS).is_dir() else "queued"
        if result is not None:
            state = "finished"
        elif run.cancelled:
            state = "cancelled"
        elif failure is not None:
            state = "failed"
        missing = [] if (directory / ANSWER).exists() else list(_missing(directory, run))
        doing = [_progress(directory, f"segment-{segment}") for segment in missing]
        done = run.segments - len(missing)
        seconds = done * run.options.segment_seconds + sum(one.get("seconds", 0.0) for one in doing)
        seconds = min(seconds, run.video.seconds or seconds)
        waiting = [one["waiting_for"] for one in doing if "waiting_for" in one]
        return VideoStatus(
            **run.model_dump(exclude={"format", "cancelled"}),
            state=state,
            segments_done=done,
            seconds=round(seconds if result is None else result.analysed_seconds, 1),
            result=result,
            waiting_for=waiting[0] if waiting and state == "running" else None,
            warnings=[] if result is None else result.warnings,
            problem=None if failure is None else str(failure.get("detail")),
        )

    def clear_failures(self, data_dir: Path, run: VideoRun) -> None:
        directory = video_dir(data_dir, run.id)
        if (directory / FAILURE).exists():
            for step in (directory / STEPS).glob("*/"):
                renew_attempts(step)
        clear_failure(directory)


def new_video_id(idempotency_key: str | None) -> str:
    return PREFIX + new_id(idempotency_key)


def video_dir(data_dir: Path, run_id: str) -> Path:
    """Return a run's folder. Raises ``not-found`` 404 for an id that could leave `videos`."""
    if not NAME.fullmatch(run_id):
        raise not_found("video", run_id)
    return data_dir / "videos" / run_id


def step_dir(directory: Path, step: str) -> Path:
    return directory / STEPS / step


def segment_path(directory: Path, segment: int) -> Path:
    return directory / SEGMENTS / f"{segment}.json"


def source_path(data_dir: Path, run: VideoRun) -> Path:
    """Return the video's file, which may be gone by now if it was not uploaded."""
    if run.uploaded:
        return video_dir(data_dir, run.id) / SOURCE / run.file
    return stored_video(data_dir, run.file)


def stored_video(data_dir: Path, name: str) -> Path:
    """Return a file that the user put into `videos`. Raises ``no-such-video`` 404."""
    folder = data_dir / "videos"
    path = folder / name
    safe = name not in ("", ".", "..") and "/" not in name and "\\" not in name and name.isprintable()
    if not safe or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise Problem(
            "no-such-video",
            404,
            f"There is no file {name[:_MAX_NAME]!r} in the folder `videos` of the data folder. Copy the "
            "video there and send its name without a folder, or upload it as the form field `file`.",
        )
    return path


def uploaded_name(given: str) -> str:
    """Return a safe file name for an upload, as close to the client's as possible."""
    name = _UNUSUAL.sub("_", given.replace("\\", "/").rpartition("/")[2]).strip(" .")
    return name[-_MAX_NAME:].lstrip(" .-") or "video"


def new_video(run_id: str, path: Path, options: VideoOptions, *, uploaded: bool) -> VideoRun:
    """Return the record for a video of which the first frame can be decoded. Raises as `described` does.

    A video whose duration is not known is one segment.
    """
    info = described(path)
    segments = 1 if info.seconds is None else max(1, int(-(-info.seconds // options.segment_seconds)))
    return VideoRun(
        id=run_id,
        file=path.name,
        uploaded=uploaded,
        size=path.stat().st_size,
        video=info,
        segments=segments,
        options=options,
    )


def described(path: Path, seconds: float = OPENING_SECONDS, memory: int = OPENING_MEMORY) -> VideoInfo:
    """Return the description of a video after its first frame was decoded, in a process of its own.

    It has no duration if the time stamps start again, as in recordings that were concatenated.

    Raises ``no-video`` 415, ``video-too-large`` 413, and ``bad-video`` 415, also for a file that crashes the
    decoder, or takes it longer than these seconds or more than this memory.
    """
    command = [*OPENING_PROGRAM, str(memory), str(path.resolve())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise _undecodable(path, f"it took longer than {seconds:g} seconds") from None
    if done.returncode == 0:
        found = json.loads(done.stdout)
        if "problem" in found:
            raise Problem.from_document(found["problem"])
        return VideoInfo.model_validate(found)
    ended = f"exit code {done.returncode}"
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
    log.warning(
        "decoder failed", file=path.name, ended=ended, stderr=done.stderr[-500:].decode(errors="replace")
    )
    raise _undecodable(path, f"the decoder ended with {ended}")


def _undecodable(path: Path, reason: str) -> Problem:
    return Problem(
        "bad-video",
        415,
        f"{path.name} has no frame that can be decoded: {reason}. Expected a complete file, such as MP4, "
        "MOV, WebM, MKV or AVI.",
    )


def _describe(memory: int, path: Path) -> None:
    """Print the description of a video as JSON, or `problem`."""
    with suppress(ImportError, ValueError, OSError):  # systems without these limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open_video(path) as video:
            if next(video.frames(), None) is None:
                raise video.problem or _undecodable(path, "it is damaged or truncated")
        if _restarts(path):  # so the duration that it states is not the whole one
            video.info.seconds = None
        print(video.info.model_dump_json())
    except Problem as problem:
        print(json.dumps({"problem": problem.document()}))


def _restarts(path: Path) -> bool:
    """Return whether the time stamps of a video start again, or could not be read in time.

    A segment of such a video cannot be found by its time. The index of concatenated files is that of the
    first one, and the last segment takes the rest.
    """
    until = time.monotonic() + _READING_SECONDS
    with open_video(path) as video:
        clock = video.clock()
        clock.origin = None  # frames that others refer to are decoded before the first one is shown
        if video.has_index:
            return False
        for stamp in video.time_stamps():
            clock.of(stamp)
            if clock.restarts or time.monotonic() > until:
                return True
    return False


def delete_stale_videos(data_dir: Path) -> None:
    """Delete folders of uploads whose process was killed before it wrote their record."""
    for path in (data_dir / "videos").glob(f"{PREFIX}*/"):
        with suppress(OSError):
            if not (path / RECORD).exists() and time.time() - path.stat().st_mtime > STALE_SECONDS:
                log.warning("left-over video deleted", folder=path.name)
                shutil.rmtree(path, ignore_errors=True)


def _missing(directory: Path, run: VideoRun) -> Iterator[int]:
    for segment in range(run.segments):
        if not segment_path(directory, segment).exists():
            yield segment


def _progress(directory: Path, step: str) -> dict[str, Any]:
    found = read_optional(step_dir(directory, step) / PROGRESS)
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    _describe(int(sys.argv[1]), Path(sys.argv[2]))
