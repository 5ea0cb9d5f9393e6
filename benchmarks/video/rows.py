"""Rows of `make bench`: a video answered per person against every frame answered alone, as images are.

Speed and memory need no data: the persons are the faces of the photograph in the insightface package. The
errors per person are those of made clips of labelled faces, and need the data folder.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import psutil
from agegender.images import ImageLimits, decode
from agegender.predictions import AgeGenderAnswer
from agegender.video.analysis import EVERY, Analysis, Observe
from agegender.video.decoding import open_video
from agegender_client import Client, ClientSettings

from benchmarks.packs import human
from benchmarks.serving import UNCACHED, local_heads, running
from benchmarks.table import Goal, Row, seconds_of
from benchmarks.video import memory
from benchmarks.video.clips import ENCODINGS, write_clip
from benchmarks.video.collection import measured_clips
from benchmarks.video.comparison import label_changes, maes
from benchmarks.video.measured import measure
from benchmarks.video.observing import Stored, answer
from benchmarks.video.portraits import Portrait
from benchmarks.video.scenes import Scene, make_scene
from tools.stack import PHOTOGRAPH, RESEARCH_DATA, Stack

SECONDS: Final = 4.0
TURNS: Final = 3
CLIPS: Final = 8
SERVICES: Final = ("predictor", "embedder-proxy", "embedder")


def rows() -> list[Row]:
    with TemporaryDirectory() as folder, running(**UNCACHED) as stack:
        scene = four_faces(1280, 720)
        clip = write_clip(Path(folder), "four-faces", scene, SECONDS, ENCODINGS["h264"])
        with Client(ClientSettings(predictor_url=stack.url("predictor"), timeout=120)) as client:

            def observe(images: Sequence[bytes], min_face: float) -> AgeGenderAnswer:
                return client.predict(list(images), embeddings=True, min_face=min_face)

            found = [*_speed(clip, observe), *_memory(stack, clip, observe)]
    return [*found, *memory.rows(), _labels(), *_errors()]


def four_faces(width: int, height: int) -> Scene:
    """Return a scene of four faces of the photograph, none of which leaves it."""
    pixels = decode(PHOTOGRAPH.read_bytes(), ImageLimits())
    cast = []
    for box in sorted(face.bbox for face in human(1).faces([pixels])[0])[:4]:
        x1, y1, x2, y2 = box
        margin = (x2 - x1) * 0.3
        left, top = max(0, round(x1 - margin)), max(0, round(y1 - margin))
        crop = pixels[top : round(y2 + margin), left : round(x2 + margin)]
        own = (x1 - left, y1 - top, x2 - left, y2 - top)
        cast.append(Portrait("t1.jpg", np.ascontiguousarray(crop), own, 30.0, False))
    return make_scene(7, cast, width, height, SECONDS, staying=True)


def _analysed(clip: Path, observe: Observe) -> None:
    with open_video(clip) as video:
        for _ in Analysis(video, observe, every=EVERY).moments():
            pass


def _every_frame(clip: Path, observe: Observe) -> None:
    with open_video(clip) as video:
        for frame in video.frames():
            observe([frame.jpeg()], 0.0)


def _speed(clip: Path, observe: Observe) -> list[Row]:
    """Measure both ways by turns in the same minutes."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    _analysed(clip, observe)  # warm-up
    for _ in range(TURNS):
        times["ours"].append(seconds_of(lambda: _analysed(clip, observe)))
        times["theirs"].append(seconds_of(lambda: _every_frame(clip, observe)))
    ours, theirs = (float(np.median(values)) for values in times.values())
    seconds = {"ours": ours, "theirs": theirs}
    return [
        Row(
            "video of 720p at 25 frames per second, four faces, per person",
            "every frame as an image",
            theirs / ours,
            Goal(8),
            seconds=seconds,
            note=f"{SECONDS:g} s of H.264; a frame is searched every {EVERY:g} s",
            if_missed="decoding and the images that are sent cost the same per searched frame",
        ),
        Row("the same", "the time that the video takes", SECONDS / ours, Goal(1), seconds=seconds),
    ]


@dataclass
class _Peak:
    """The highest resident memory of all services together, in MB."""

    megabytes: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def _peak_of(stack: Stack) -> Iterator[_Peak]:
    processes = [psutil.Process(stack.pids()[name]) for name in SERVICES]
    peak = _Peak()

    def watch() -> None:
        while not peak._stop.wait(0.05):
            used = sum(process.memory_info().rss for process in processes) / 1e6
            peak.megabytes = max(peak.megabytes, used)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        peak._stop.set()
        thread.join()


def _memory(stack: Stack, clip: Path, observe: Observe) -> list[Row]:
    """Compare the services' memory with that of requests with one image."""
    with open_video(clip) as video:
        image = next(iter(video.frames())).jpeg()
    with _peak_of(stack) as of_image:
        for _ in range(10):
            observe([image], 0.0)
    with _peak_of(stack) as of_video:
        _analysed(clip, observe)
    return [
        Row(
            "memory of the services, video",
            "requests with one image of the same size",
            of_video.megabytes / of_image.megabytes,
            Goal(1.5, at_most=True),
            note=f"predictor, proxy and embedder: {of_video.megabytes:.0f} and "
            f"{of_image.megabytes:.0f} MB resident; up to three frames are in flight",
        )
    ]


def _labels() -> Row:
    """Count changes of the label beside a face, for every frame alone and for tracks."""
    pack = human(1)
    heads = local_heads(pack)
    with TemporaryDirectory() as folder:
        clip = write_clip(Path(folder), "four-faces", four_faces(640, 360), SECONDS, ENCODINGS["h264"])
        stored = Stored(Path(folder) / "answers.jsonl", lambda image: answer(pack, heads, image))
        alone, _ = label_changes([measure(clip, stored, 0.04)])
        _, tracked = label_changes([measure(clip, stored, EVERY)])
    return Row(
        "changes of label per second, per person",
        "every frame as an image",
        tracked / max(alone, 1e-9),
        Goal(1, at_most=True),
        note=f"the label is age in whole years and gender: {tracked:.2f} and {alone:.2f} changes per second",
    )


def _errors() -> list[Row]:
    what, against = "mean absolute error per person", "best single frame"
    if not (RESEARCH_DATA / "utkface" / "labels.csv").is_file():
        note = "the folder AGEGENDER_DATA has no labelled faces"
        return [Row(what, against, None, note=note)]
    with TemporaryDirectory() as folder:
        clips = measured_clips(RESEARCH_DATA, Path(folder), "human", "confirmation", CLIPS)
        found = maes(clips(EVERY))
    return [
        Row(
            what,
            against,
            found.combined / found.best,
            Goal(1, at_most=True),
            note=f"{found.combined:.2f}, {found.best:.2f} and, mean of all frames, {found.mean:.2f} years; "
            f"{found.persons} persons, held-out heads",
        )
    ]
