"""Short videos made by PyAV: real codecs and containers, plain frames."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 30), (30, 30, 220), (128, 128, 128)


def quartered(size: tuple[int, int] = (96, 64), corner: tuple[int, int, int] = RED) -> Pixels:
    """Return a grey frame [height, width, 3] whose top left quarter has a colour."""
    frame = np.full((size[1], size[0], 3), GREY, np.uint8)
    frame[: size[1] // 2, : size[0] // 2] = corner
    return frame


def write_video(
    path: Path,
    frames: Iterable[Pixels],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    *,
    rate: int = 10,
    times: Sequence[float] | None = None,
    turn: int = 0,
    options: dict[str, str] | None = None,
    layout: dict[str, str] | None = None,
) -> Path:
    """Encode RGB frames of one size.

    times : of the frames in seconds, for a variable frame rate. turn : degrees counterclockwise, as metadata,
    by which a player turns the frames. options, layout : of the encoder and of the container.
    """
    base = Fraction(1, 1000) if times else Fraction(1, rate)
    with av.open(str(path), "w", options=layout or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        for index, pixels in enumerate(frames):
            if index == 0:
                stream.height, stream.width = pixels.shape[:2]
                if turn:
                    stream.set_display_rotation(turn)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base = base  # the container may change that of the stream
            frame.pts = index if times is None else round(times[index] / base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def add_sound(path: Path, video: Path, seconds: float, tags: bool = True, delay: float = 0.0) -> Path:
    """Write a copy of a video without B-frames, with silence of this length.

    tags : Matroska's durations. delay : of the images in seconds.
    """
    with av.open(str(video)) as source, av.open(str(path), "w") as container:
        images: Any = source.streams.video[0]
        copy: Any = container.add_stream_from_template(images)
        sound: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for start in range(0, int(8000 * seconds), 800):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 8000, start
            container.mux(sound.encode(silence))
        for packet in source.demux(images):
            if packet.size:
                packet.pts = packet.dts = packet.pts + round(delay / packet.time_base)
                packet.stream = copy
                container.mux(packet)
        container.mux(sound.encode(None))
    if not tags:
        path.write_bytes(path.read_bytes().replace(b"DURATION", b"ABSENCE_"))
    return path


def write_sound(path: Path, seconds: float = 0.5) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16_000, layout="mono")
        samples = np.zeros((1, int(16_000 * seconds)), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
