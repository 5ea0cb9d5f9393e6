"""Analyse one video: search faces in a few frames per second, track them, and answer per person."""

import csv
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, Field

from agegender.errors import Problem
from agegender.faces import ImageProblem
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES
from agegender.predictions import AgeGenderAnswer, FaceAnswer, ImageAnswer
from agegender.spaces import Space
from agegender.video.decoding import Frame, Pixels, Video, VideoInfo
from agegender.video.persons import Person, Track, is_person, joined
from agegender.video.tracks import LiveFace, Tracker, longest_gap

# Answer images (JPEG files), with the embedding of each face: `POST /age-gender` with embeddings=true. The
# number is the option `min_face`, in pixels of these images.
Observe = Callable[[Sequence[bytes], float], AgeGenderAnswer]

EVERY: Final = 0.4  # seconds between two searched frames
_EMPTY_EVERY: Final = 2.0  # the same while nobody is tracked and nothing changes
_UNCHANGED: Final = 3.0  # mean difference of two thumbnails (of 255) below which nothing changed
# A frame is the first of a scene if its thumbnail differs by this much (of 255) from the last frame's, and by
# as much more than the last frame did from the one before, as FFmpeg's filter `scdet` has it.
_CUT: Final = 20.0
_SOONER: Final = 0.75  # share of `every` by which a frame after a cut is searched earlier
_IN_FLIGHT: Final = 3  # frames that are sent and not answered yet
_WIDTHS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # of bins, in seconds
_MOST_BINS: Final = 60

# Columns of `persons_csv`; docs/video.md describes them.
PERSON_COLUMNS: Final = (
    "person", "first", "last", "seconds_visible", "mean", "interval_low", "interval_high", "coverage",
    "group", "p_female", "quality", "best_seconds", "faces", "effective_faces",
)  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """A searched frame.

    ended : the tracks that ended before it. live : the faces of this frame, with their answers so far.
    """

    seconds: float
    ended: list[Track]
    live: list[LiveFace]


class Bin(BaseModel):
    """Persons who are visible during a part of the video."""

    start: float = Field(description="seconds")
    persons: int
    groups: dict[str, int] = Field(description="persons by their most likely age group")
    genders: dict[str, int]


class Progress(BaseModel):
    """The part of a video that was searched."""

    space: Space | None = Field(None, description="of the embeddings; null if no frame was searched")
    models: dict[str, str] = Field(default_factory=dict, description="versions of the heads used")
    seconds: float = Field(0, description="time of the last searched frame")
    frames: int = Field(0, description="searched frames")
    complete: bool = False
    problem: dict[str, object] | None = Field(None, description="why it is not complete, if that is an error")


class VideoAnswer(BaseModel):
    """The persons of a video."""

    format: Literal[1] = 1
    file: str
    video: VideoInfo
    space: Space | None = Field(None, description="of the embeddings; null if no frame was searched")
    models: dict[str, str] = Field(default_factory=dict, description="versions of the heads used")
    analysed_seconds: float = Field(description="time of the last searched frame")
    searched_frames: int
    complete: bool = Field(description="whether the whole video was searched")
    problem: dict[str, object] | None = Field(None, description="why it was not, if that was an error")
    omitted: int = Field(0, description="tracks with too little evidence for an answer")
    persons: list[Person]
    bin_seconds: float = Field(1, description="width of the timeline's bins")
    timeline: list[Bin] = Field(default_factory=list)


@dataclass
class Scenes:
    """Find the first frame of each scene, from all frames in their order."""

    _last: Pixels | None = None
    _change: float = 0.0

    def begins_with(self, frame: Frame) -> bool:
        """Return whether a scene begins with this frame. The first frame does not count."""
        difference = 0.0 if self._last is None else _difference(frame.thumbnail, self._last)
        cut = min(difference, difference - self._change) > _CUT
        self._last, self._change = frame.thumbnail, difference
        return cut


@dataclass
class Analysis:
    """The analysis of one video, or of the part from `start` to before `end`, in seconds.

    Frames are decoded while earlier ones are answered. Of a live source, frames that arrive meanwhile are
    dropped. After `moments` ended, or was stopped by an exception, `close` returns the tracks of the faces
    that were still visible.

    every : seconds between two searched frames. first_track : number of the first track. min_face : shortest
    side of a face, in pixels of the video.
    """

    video: Video
    observe: Observe
    every: float = EVERY
    coverage: float = 0.9
    start: float = 0.0
    end: float | None = None
    first_track: int = 1
    min_face: float = 0.0
    space: Space | None = None
    models: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    searched: int = 0
    finished: bool = False
    _tracker: Tracker | None = None
    _empty: Frame | None = None  # the last searched frame, if nobody is tracked since
    _next: float = 0.0
    _scenes: Scenes = field(default_factory=Scenes)
    _cut: bool = False  # since the last searched frame

    @property
    def gap(self) -> float:
        """Return the seconds without its face until a track ends."""
        return longest_gap(self.every, self.video.info.frame_rate)

    def moments(self) -> Iterator[Moment]:
        """Yield what each searched frame added, in the order of time.

        Raises the problems of `observe`, and the problem of a frame that it rejects.
        """
        waiting: deque[tuple[Frame, bool, Future[AgeGenderAnswer]]] = deque()
        most = 1 if self.video.info.live else _IN_FLIGHT
        with ThreadPoolExecutor(most) as pool:
            try:
                for frame in self.video.frames(self.start, self.end):
                    while waiting and waiting[0][2].done():
                        yield self._seen(*waiting.popleft())
                    if not self._is_due(frame):
                        continue
                    if len(waiting) >= most:
                        if self.video.info.live:
                            continue
                        yield self._seen(*waiting.popleft())
                    self._next = frame.seconds + self.every
                    waiting.append((frame, self._cut, pool.submit(self._observed, frame)))
                    self._cut = False
                while waiting:
                    yield self._seen(*waiting.popleft())
                self.finished = self.video.problem is None
            finally:
                pool.shutdown(cancel_futures=True)

    def close(self) -> list[Track]:
        """End the tracks that have not ended, and return them."""
        return [] if self._tracker is None else self._tracker.close()

    def _is_due(self, frame: Frame) -> bool:
        self._cut = self._scenes.begins_with(frame) or self._cut
        # A scene is searched soon, but a video that flickers not in each frame.
        if frame.seconds < self._next - (_SOONER * self.every if self._cut else 0.0) - 1e-6:
            return False
        if self._cut:
            return True
        if self._empty is None or frame.seconds >= self._next - self.every + _EMPTY_EVERY:
            return True
        return _difference(frame.thumbnail, self._empty.thumbnail) > _UNCHANGED

    def _observed(self, frame: Frame) -> AgeGenderAnswer:
        return self.observe([frame.jpeg()], self.min_face * frame.scale())

    def _seen(self, frame: Frame, cut: bool, future: "Future[AgeGenderAnswer]") -> Moment:
        answer = future.result()
        (image,) = answer.images
        if isinstance(image, ImageProblem):
            raise Problem.from_document(image.problem)
        if self._tracker is None:
            self.space = answer.space
            self.models = {str(task): version for task, version in answer.models.items()}
            self._tracker = Tracker(answer.space, self.first_track, self.gap)
        assert self.space is not None
        self.space.require(answer.space)
        self.seconds, self.searched = frame.seconds, self.searched + 1
        ended = self._tracker.update(frame.seconds, _in_frame(image, frame), cut=cut)
        self._empty = None if self._tracker.is_tracking else frame
        return Moment(frame.seconds, ended, self._tracker.live(self.coverage) if image.faces else [])

    @property
    def progress(self) -> "Progress":
        """Return what was searched so far."""
        problem = self.video.problem
        return Progress(
            space=self.space,
            models=self.models,
            seconds=round(self.seconds, 3),
            frames=self.searched,
            complete=self.finished and problem is None,
            problem=None if problem is None else problem.document(),
        )


def video_answer(
    file: str,
    video: VideoInfo,
    progress: Progress,
    tracks: Sequence[Track],
    coverage: float,
    *,
    every: float = EVERY,
    embeddings: bool = False,
) -> VideoAnswer:
    """Join all tracks of a video, and return the answer, whether it was searched completely or not.

    tracks : each with a number of its own. coverage : of the intervals of their faces.
    every : seconds between two searched frames. embeddings : return each person's mean embedding.
    """
    persons, gap = [], longest_gap(every, video.frame_rate)
    if progress.space is not None:
        persons = joined(tracks, progress.space, coverage, gap=gap, embeddings=embeddings)
    width, bins = timeline(persons, progress.seconds)
    return VideoAnswer(
        file=file,
        video=video,
        space=progress.space,
        models=progress.models,
        analysed_seconds=progress.seconds,
        searched_frames=progress.frames,
        complete=progress.complete,
        problem=progress.problem,
        omitted=sum(not is_person(track) for track in tracks),
        persons=persons,
        bin_seconds=width,
        timeline=bins,
    )


def _difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _in_frame(image: ImageAnswer, frame: Frame) -> list[FaceAnswer]:
    """Return the faces with their boxes in pixels of the video, which is sent in a smaller size."""
    width, height = frame.size
    across, along = width / image.width, height / image.height
    return [
        face.model_copy(
            update={
                "bbox": (
                    face.bbox[0] * across,
                    face.bbox[1] * along,
                    face.bbox[2] * across,
                    face.bbox[3] * along,
                )
            }
        )
        for face in image.faces
    ]


def timeline(persons: Sequence[Person], seconds: float) -> tuple[float, list[Bin]]:
    """Count persons over time. Returns the width of a bin in seconds, and at most 60 bins."""
    width = next((width for width in _WIDTHS if seconds / width <= _MOST_BINS), _WIDTHS[-1])
    count = int(seconds // width) + 1
    bins = [
        Bin(
            start=index * width,
            persons=0,
            groups=dict.fromkeys(AGE_GROUP_NAMES, 0),
            genders=dict.fromkeys(GENDER_NAMES, 0),
        )
        for index in range(count)
    ]
    for person in persons:
        seen = {
            index
            for one in person.appearances
            for index in range(int(one.first // width), min(int(one.last // width), count - 1) + 1)
        }
        for index in seen:
            bins[index].persons += 1
            bins[index].groups[person.age.group] += 1
            bins[index].genders[person.gender.label] += 1
    return width, bins


def persons_csv(persons: Iterable[Person]) -> str:
    """Return a table with one row per person."""
    file = io.StringIO()
    rows = csv.DictWriter(file, PERSON_COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows(_row(person) for person in persons)
    return file.getvalue()


def _row(person: Person) -> dict[str, Any]:
    low, high = person.age.interval
    return {
        "person": person.person,
        "first": person.first,
        "last": person.last,
        "seconds_visible": person.seconds_visible,
        "mean": person.age.mean,
        "interval_low": low,
        "interval_high": high,
        "coverage": person.age.coverage,
        "group": person.age.group,
        "p_female": person.gender.probability["female"],
        "quality": person.best.quality,
        "best_seconds": person.best.seconds,
        "faces": person.faces,
        "effective_faces": person.effective_faces,
    }
