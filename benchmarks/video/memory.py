"""Memory of the analysis of a video that lasts for hours, with made faces instead of a predictor.

A process of its own decodes the video, follows four faces at a time and joins their tracks at the end, as
`agegender video` does. In an office they are the same four persons for two hours. In a street others come
every 30 seconds, so tracks add up.
"""

import gc
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import psutil
from agegender.labels import AGE_GROUP_NAMES
from agegender.predictions import AgeAnswer, AgeGenderAnswer, FaceAnswer, GenderAnswer, ImageAnswer, Quality
from agegender.spaces import Space
from agegender.video.analysis import Analysis, video_answer
from agegender.video.decoding import open_video
from agegender.video.persons import Track

from benchmarks import report
from benchmarks.table import Goal, Row
from benchmarks.video.clips import Encoding, encode
from benchmarks.video.portraits import Pixels

EARLY, LATE = 600.0, 7200.0  # seconds of the video at which memory is measured
SPACE: Final = Space(id="human-3", dimension=3600)
WIDTH, HEIGHT = 320, 180
_FACES, _CAST, _LOOKS = 4, 24, 6  # at a time; persons; embeddings of each
_OFFICE, _STREET = 100_000, 30  # seconds that a person stays


@dataclass(frozen=True)
class Measured:
    """Resident memory in MB after ten minutes, after two hours, and with the answer; tracks at the end."""

    early: float
    late: float
    answered: float
    tracks: int
    persons: int


def rows() -> list[Row]:
    found = []
    for stay, goal in ((_OFFICE, Goal(1.05, at_most=True)), (_STREET, None)):
        with get_context("spawn").Pool(1) as process:
            one = process.apply(measured, (stay,))
        note = (
            f"{one.late:.0f} and {one.early:.0f} MB resident, {one.answered:.0f} MB with the answer; "
            f"{one.tracks:,} tracks of {one.persons} persons, made answers"
        )
        what = "memory of a process that analyses a video, after two hours"
        if stay == _STREET:
            what += ", four other persons every 30 seconds"
        found.append(Row(what, "the same after ten minutes", one.late / one.early, goal, note=note))
    return found


def measured(stay: int, seconds: float = LATE) -> Measured:
    """Analyse a made video of one frame per second. stay : seconds after which other persons come."""
    faces = _faces()
    times = itertools.count()

    def observe(images: Sequence[bytes], min_face: float = 0) -> AgeGenderAnswer:
        """Answer one image; the analysis sends a frame per second, in the order of time."""
        second = next(times)
        shown = [_moved(faces, second, slot, stay) for slot in range(_FACES)]
        found = ImageAnswer(width=WIDTH, height=HEIGHT, faces=shown)
        return AgeGenderAnswer(space=SPACE, models={}, images=[found], timings={})

    tracks: list[Track] = []
    early = 0.0
    with TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp4"
        encode(path, _frames(seconds), WIDTH, HEIGHT, Encoding(".mp4", "mpeg4", options=(("g", "60"),)))
        with open_video(path) as video:
            analysis = Analysis(video, observe)
            for moment in analysis.moments():
                tracks += [track.model_copy(update={"path": []}) for track in moment.ended]
                if not early and moment.seconds >= min(EARLY, seconds / 2):
                    early = _resident()
            tracks += analysis.close()
            late = _resident()
            answer = video_answer(path.name, video.info, analysis.progress, tracks, 0.9)
    return Measured(early, late, _resident(), len(tracks), len(answer.persons))


def _resident() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss / 1e6)


def _frames(seconds: float) -> Iterator[tuple[float, Pixels]]:
    """Yield a frame per second, in which everything moves."""
    noise = np.random.default_rng(0).integers(60, 200, (HEIGHT // 20, WIDTH // 20, 3), dtype=np.uint8)
    still = noise.repeat(20, axis=0).repeat(20, axis=1)
    for second in range(int(seconds)):
        yield float(second), np.roll(still, second, axis=1)


def _faces() -> list[list[FaceAnswer]]:
    """Return the faces of each person, in several looks."""
    rng = np.random.default_rng(1)
    cast = []
    for person in range(_CAST):
        looks = rng.normal(size=SPACE.dimension) + 0.4 * rng.normal(size=(_LOOKS, SPACE.dimension))
        looks /= np.linalg.norm(looks, axis=1, keepdims=True)
        cast.append([_face(20.0 + person, look.round(6).tolist()) for look in looks])
    return cast


def _face(age: float, embedding: list[float]) -> FaceAnswer:
    groups = dict.fromkeys(AGE_GROUP_NAMES, 1 / len(AGE_GROUP_NAMES))
    return FaceAnswer(
        bbox=(0, 0, 40, 40),
        det_score=0.9,
        landmarks=[(20, 20)] * 5,
        quality=Quality(score=0.9, reasons=[], pixels=40, yaw=0, roll=0),
        age=AgeAnswer(
            mean=age, interval=(age - 10, age + 10), coverage=0.9, group="25-32", groups=groups, entropy=1
        ),
        gender=GenderAnswer(label="female", probability={"female": 0.8, "male": 0.2}, entropy=0.5),
        embedding=embedding,
    )


def _moved(faces: list[list[FaceAnswer]], second: int, slot: int, stay: int) -> FaceAnswer:
    """Return the face that one of the places shows at this time, where it is by then."""
    person = (second // stay * _FACES + slot) % _CAST
    x, y = 75.0 * slot + second % 30, 40.0 + 2 * (second % 7)
    return faces[person][second % _LOOKS].model_copy(update={"bbox": (x, y, x + 40, y + 40)})


if __name__ == "__main__":
    for row in rows():
        print(report.line(row), flush=True)
