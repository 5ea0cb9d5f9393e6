"""Encode scenes as video files, with the truth as JSON beside them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from agegender.files import write_json
from av.video.frame import VideoFrame

from benchmarks.video.portraits import Pixels
from benchmarks.video.scenes import Frame, Scene, Truth

RATE: Final = 25
_MILLISECONDS: Final = Fraction(1, 1000)


@dataclass(frozen=True)
class Encoding:
    """Describe how a scene is written. Encoders run in one thread, so that a file depends on nothing else.

    rotation : degrees in the metadata; the frames are stored turned, as phones do. variable : frames at
    irregular times, some missing.
    """

    suffix: str
    codec: str
    pixels: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = ()
    rotation: int = 0
    variable: bool = False


# Without MB-tree, whose assembly for some processors makes another file each time.
_H264 = (("crf", "23"), ("preset", "veryfast"), ("x264-params", "mbtree=0"))
_VP9 = (("crf", "34"), ("b", "0"), ("deadline", "realtime"), ("cpu-used", "8"))
ENCODINGS: Final = {
    "h264": Encoding(".mp4", "libx264", options=_H264),
    "vp9": Encoding(".webm", "libvpx-vp9", options=_VP9),
    "mjpeg": Encoding(".avi", "mjpeg", "yuvj420p", options=(("q:v", "4"),)),
    "variable": Encoding(".mp4", "libx264", options=_H264, variable=True),
    "rotated": Encoding(".mp4", "libx264", options=_H264, rotation=90),
    "ten-bit": Encoding(".mp4", "libx264", "yuv420p10le", options=_H264),
    "hevc-ten-bit": Encoding(
        ".mp4",
        "libx265",
        "yuv420p10le",
        options=(
            ("crf", "28"),
            ("preset", "ultrafast"),
            ("x265-params", "log-level=error:pools=1:frame-threads=1"),
        ),
    ),
    "odd": Encoding(".mkv", "libx264", "yuv444p", options=_H264),
}


def times(seconds: float, encoding: Encoding, seed: int) -> list[float]:
    """Return the times of the frames, in whole milliseconds."""
    regular = np.arange(round(seconds * RATE)) / RATE
    if not encoding.variable:
        return [round(float(time), 3) for time in regular]
    rng = np.random.default_rng([seed, 2])
    kept = [0, *(index for index in range(1, len(regular)) if rng.random() > 0.25)]
    return [round(float(regular[index] + rng.uniform(0, 0.4 / RATE) * (index > 0)), 3) for index in kept]


def write_clip(folder: Path, name: str, scene: Scene, seconds: float, encoding: Encoding) -> Path:
    """Write `name` with its truth as `name.json`; return the video. Existing files stay as they are."""
    target = folder / f"{name}{encoding.suffix}"
    if (folder / f"{name}.json").exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    frames: list[Frame] = []

    def shown() -> Iterator[tuple[float, Pixels]]:
        for time in times(seconds, encoding, scene.seed):
            pixels, faces = scene.frame(time)
            frames.append(Frame(seconds=time, faces=faces))
            yield time, pixels

    encode(target, shown(), scene.width, scene.height, encoding)
    truth = Truth(
        seed=scene.seed, width=scene.width, height=scene.height, persons=scene.persons, frames=frames
    )
    write_json(folder / f"{name}.json", truth.model_dump())
    return target


def read_truth(video: Path) -> Truth:
    return Truth.model_validate_json(video.with_suffix(".json").read_text())


def encode(
    target: Path, frames: Iterator[tuple[float, Pixels]], width: int, height: int, encoding: Encoding
) -> None:
    """Write frames, given as seconds and RGB [height, width, 3]."""
    turned = encoding.rotation % 180 != 0
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream(encoding.codec, rate=RATE, options=dict(encoding.options))
        stream.width, stream.height = (height, width) if turned else (width, height)
        stream.pix_fmt = encoding.pixels
        stream.codec_context.thread_count = 1
        stream.time_base = stream.codec_context.time_base = _time_base(encoding)
        if encoding.rotation:
            stream.set_display_rotation(encoding.rotation)
        for seconds, pixels in frames:
            stored = np.ascontiguousarray(np.rot90(pixels, -encoding.rotation // 90))
            frame = VideoFrame.from_ndarray(stored, format="rgb24")
            frame.time_base = _time_base(encoding)
            frame.pts = round(seconds / _time_base(encoding))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _time_base(encoding: Encoding) -> Fraction:
    return _MILLISECONDS if encoding.variable else Fraction(1, RATE)


def truncated(video: Path, share: float = 0.6) -> Path:
    """Write the first part of a file, as an interrupted download leaves it."""
    content = video.read_bytes()
    target = video.with_name(f"{video.stem}-truncated{video.suffix}")
    target.write_bytes(content[: int(len(content) * share)])
    return target


def audio_only(folder: Path, seconds: float = 2.0) -> Path:
    """Write a file with a tone and no video."""
    target, rate = folder / "audio-only.m4a", 44_100
    tone = np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 440 / rate).astype(np.float32)
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream("aac", rate=rate, layout="mono")
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target


ENDINGS: Final[dict[str, Callable[[Path], Path]]] = {"truncated": truncated}
