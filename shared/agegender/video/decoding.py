"""Decode videos with PyAV: files, cameras and RTSP streams.

A container comes from anybody, so only formats that hold their data in one file are accepted, and only the
protocol that the source needs (`_FORMATS`, `_PROTOCOLS`): no playlist or concatenation can open other files
or addresses. Frames are decoded one by one; nothing grows with the length of the video.
"""

import io
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from PIL import Image
from pydantic import BaseModel, Field

from agegender.errors import Problem

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS: Final = 8192 * 4320  # of one frame
MAX_SECONDS: Final = 12 * 3600.0  # of one file
MAX_SIDE: Final = 1280  # longest side of the frames in which faces are searched, in pixels
_MAX_BROKEN: Final = 200  # packets in a row that cannot be decoded
_LIVE_SECONDS: Final = (10.0, 10.0)  # to open a live source, and to wait for its next frame
_THUMBNAIL: Final = (32, 18)
# A frame is the first of a scene if its thumbnail differs by this much (of 255) from the last frame's, and by
# as much more than the last frame did from the one before, as FFmpeg's filter `scdet` has it.
_CUT: Final = 20.0
_INCOMPLETE_SHARE, _INCOMPLETE_SECONDS = 0.02, 1.0  # missing at the end of a file until it counts

_FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,nut,dv,mxf,wtv,rm,ivf,h264,hevc,"
    "mpegvideo,m4v,mjpeg,gif,yuv4mpegpipe"
)
_PROTOCOLS: Final = {"file": "file", "rtsp": "rtsp,rtp,udp,tcp", "rtsps": "rtsp,rtp,udp,tcp,tls,crypto"}
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class VideoInfo(BaseModel):
    """A video as its container describes it; None for what it does not state."""

    width: int = Field(description="square pixels, upright as soon as a frame was decoded")
    height: int
    codec: str = Field(examples=["h264"])
    container: str = Field(examples=["mov,mp4,m4a,3gp,3g2,mj2"])
    frame_rate: float | None = Field(None, description="mean frames per second")
    seconds: float | None = Field(None, description="duration")
    live: bool = False


class Frame:
    """A decoded frame. Conversion to pixels happens on demand, because most frames are not looked at.

    seconds : time since the start of the video. cut : whether a scene begins with this frame.
    thumbnail : luminance, uint8 [18, 32].
    """

    def __init__(
        self, frame: VideoFrame, seconds: float, aspect: float, thumbnail: Pixels, *, cut: bool
    ) -> None:
        self.seconds = seconds
        self.thumbnail = thumbnail
        self.cut = cut
        self._frame = frame
        self._aspect = aspect

    @cached_property
    def size(self) -> tuple[int, int]:
        """Return width and height in pixels, upright and with square pixels."""
        width, height = max(1, round(self._frame.width * self._aspect)), self._frame.height
        return (height, width) if self._turns % 2 else (width, height)

    @property
    def _turns(self) -> int:
        """Return the quarter turns, counterclockwise, that make the frame upright."""
        return round(self._frame.rotation / 90) % 4

    def rgb(self, max_side: int | None = None) -> Pixels:
        """Return the upright frame as RGB [height, width, 3], its longer side at most `max_side` pixels."""
        width, height = self.size
        scale = 1.0 if max_side is None else min(1.0, max_side / max(width, height))
        shown = max(1, round(width * scale)), max(1, round(height * scale))
        across = shown[::-1] if self._turns % 2 else shown
        if self._frame.interlaced_frame:
            pixels = _one_field(np.asarray(self._frame.to_ndarray(format="rgb24"), dtype=np.uint8))
            if across != (pixels.shape[1], pixels.shape[0]):
                resized = Image.fromarray(pixels).resize(across, Image.Resampling.BILINEAR)
                pixels = np.asarray(resized)
        else:
            method = "AREA" if scale < 1 else "BICUBIC"
            resampled = self._frame.reformat(*across, format="rgb24", interpolation=method)
            pixels = np.asarray(resampled.to_ndarray(), dtype=np.uint8)
        return np.ascontiguousarray(np.rot90(pixels, self._turns))

    def jpeg(self, max_side: int | None = MAX_SIDE, quality: int = 90) -> bytes:
        """Return the upright frame as a JPEG file, reduced to `max_side` pixels if it is larger."""
        file = io.BytesIO()
        Image.fromarray(self.rgb(max_side)).save(file, "JPEG", quality=quality)
        return file.getvalue()


@dataclass
class _Clock:
    """Seconds since the first frame, from time stamps that may be missing, repeated or damaged."""

    step: float
    origin: float | None = None
    last: float = 0.0

    def of(self, time: float | None) -> float:
        if time is None or not math.isfinite(time):
            time = self.last + self.step + (self.origin or 0.0)
        if self.origin is None:
            self.origin = time
        self.last = max(self.last, time - self.origin)
        return self.last


class Video:
    """An open video. Use `open_video`.

    problem : why the frames ended before the video did; None if they did not, or have not ended yet.
    """

    def __init__(self, container: Any, name: str, *, live: bool) -> None:
        self._container = container
        self._stream = container.streams.video[0]
        self.name = name
        self.problem: Problem | None = None
        codec = self._stream.codec_context
        if codec.width <= 0 or codec.height <= 0:
            raise _bad(name, "it has no frame size")
        if codec.width * codec.height > MAX_PIXELS:
            raise _too_large(codec.width, codec.height, name)
        # One thread decodes 720p several times faster than real time, and the services need the others.
        codec.thread_count = 1
        codec.options = {**codec.options, "max_pixels": str(MAX_PIXELS)}
        aspect = self._stream.sample_aspect_ratio
        self._aspect = float(aspect) if aspect and 0.1 < aspect < 10 else 1.0
        rate = self._stream.average_rate
        self._rate = float(rate) if rate and 0 < rate <= 1000 else None
        self.info = VideoInfo(
            width=max(1, round(codec.width * self._aspect)),
            height=codec.height,
            codec=codec.name,
            container=container.format.name,
            frame_rate=self._rate and round(self._rate, 3),
            seconds=None if live else self._duration(),
            live=live,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def _duration(self) -> float | None:
        if self._stream.duration and self._stream.time_base:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / av.time_base
        else:
            return None
        return round(seconds, 3) if 0 < seconds < 1e9 else None

    def frames(self, start: float = 0.0, end: float | None = None) -> Iterator[Frame]:
        """Yield the frames from `start` to before `end`, in seconds.

        Damaged frames are skipped. If the video ends early, is too long, or a frame is too large, the
        frames end and `problem` states why.
        """
        clock = _Clock(1 / (self._rate or 25.0), self._origin())
        if start > 0:
            self._seek(start)
        last: Pixels | None = None
        change = 0.0
        for decoded in self._decoded():
            if decoded.width * decoded.height > MAX_PIXELS:
                self.problem = _too_large(decoded.width, decoded.height, self.name)
                return
            seconds = clock.of(decoded.time)
            if not self.info.live and seconds > MAX_SECONDS:
                self.problem = Problem(
                    "video-too-large",
                    413,
                    f"{self.name} is longer than {MAX_SECONDS / 3600:g} hours. The rest was not read.",
                )
                return
            if end is not None and seconds >= end:
                return
            if seconds < start:
                continue
            thumbnail = _thumbnail(decoded)
            difference = 0.0 if last is None else _difference(thumbnail, last)
            cut = min(difference, difference - change) > _CUT
            last, change = thumbnail, difference
            frame = Frame(decoded, seconds, self._aspect, thumbnail, cut=cut)
            self.info.width, self.info.height = frame.size  # upright: only frames have their rotation
            yield frame
        self.problem = self.problem or self._why_incomplete(clock.last)

    def _origin(self) -> float | None:
        start, base = self._stream.start_time, self._stream.time_base
        return float(start * base) if start is not None and base else None

    def _seek(self, start: float) -> None:
        base = self._stream.time_base or Fraction(1, av.time_base)
        offset = int(start / base) + (self._stream.start_time or 0)
        with suppress(av.error.FFmpegError):  # a file without an index is read from its start
            self._container.seek(offset, stream=self._stream, backward=True)

    def _decoded(self) -> Iterator[VideoFrame]:
        """Yield every frame that can be decoded. Sets `problem` at an error that ends the video."""
        broken = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                self.problem = self._incomplete(f"reading failed ({_reason(error)})")
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                broken += 1
                if broken >= _MAX_BROKEN:
                    self.problem = self._incomplete(
                        f"{broken} pieces in a row cannot be decoded ({_reason(error)})"
                    )
                    return
                continue
            for frame in frames:
                broken = 0
                yield frame

    def _why_incomplete(self, last: float) -> Problem | None:
        """Return the problem of frames that end well before the duration that the container states."""
        stated = self.info.seconds
        if stated is None:
            return None
        missing = stated - last - 1 / (self._rate or 25.0)
        if missing <= max(_INCOMPLETE_SECONDS, _INCOMPLETE_SHARE * stated):
            return None
        return self._incomplete(f"it ends at {last:.1f} s of {stated:.1f} s")

    def _incomplete(self, what: str) -> Problem:
        if self.info.live:
            what = f"{self.name} ended: {what}. Check the camera and its network."
            return Problem("video-incomplete", 422, what)
        return Problem(
            "video-incomplete",
            422,
            f"{self.name} is damaged or truncated: {what}. The answers are those of the frames before.",
        )


def is_live(source: str | Path) -> bool:
    """Return whether a source is a camera or a stream, and not a file."""
    text = str(source)
    return text.isdigit() or text.startswith("/dev/video") or _ADDRESS.match(text) is not None


def open_video(source: str | Path) -> Video:
    """Open a file, an RTSP address (``rtsp://…``), or a camera: its number, or ``/dev/video0``.

    Raises ``no-such-video`` 404, ``bad-video`` 415 for anything but a video in one file, ``no-video`` 415 for
    a file without moving images, and ``video-too-large`` 413.
    """
    text = str(source)
    address = _ADDRESS.match(text)
    name = Path(text).name if address is None else _without_user(text)
    if address is not None:
        return _opened(text, name, *_stream(address[1].lower(), name), live=True)
    if text.isdigit() or text.startswith("/dev/video"):
        return _opened(*_camera(text), live=True)
    path = Path(text)
    if not path.is_file():
        raise Problem(
            "no-such-video", 404, f"{name} is not a file; expected a video file, a camera or rtsp://…."
        )
    if path.stat().st_size == 0:
        raise _bad(name, "the file is empty")
    options = {"protocol_whitelist": _PROTOCOLS["file"], "format_whitelist": _FORMATS}
    # `file:` keeps a name such as `concat:a|b` from being read as an address.
    return _opened(f"file:{path.resolve()}", name, None, options, live=False)


def _stream(scheme: str, name: str) -> tuple[str, dict[str, str]]:
    if scheme not in ("rtsp", "rtsps"):
        raise Problem(
            "bad-video",
            415,
            f"{name} cannot be opened: the scheme is {scheme}; expected a file, a camera, or rtsp://…. "
            "Download the video first.",
        )
    return "rtsp", {"protocol_whitelist": _PROTOCOLS[scheme], "rtsp_transport": "tcp"}


def _camera(text: str) -> tuple[str, str, str, dict[str, str]]:
    """Return address, name, FFmpeg's input device and options of a camera."""
    formats = av.formats_available
    if "video4linux2,v4l2" in formats or "v4l2" in formats:
        path = f"/dev/video{text}" if text.isdigit() else text
        if not Path(path).exists():
            raise Problem("no-such-video", 404, f"There is no camera {path}. `ls /dev/video*` lists cameras.")
        return path, path, "v4l2", {}
    device = "avfoundation" if "avfoundation" in formats else "dshow"
    return text if device == "avfoundation" else f"video={text}", f"camera {text}", device, {}


def _opened(
    address: str, name: str, container_format: str | None, options: dict[str, str], *, live: bool
) -> Video:
    try:
        container = av.open(
            address,
            format=container_format,
            container_options=options,
            options={"max_pixels": str(MAX_PIXELS)},
            timeout=_LIVE_SECONDS if live else None,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _bad(name, _reason(error)) from error
    try:
        if not container.streams.video:
            kinds = sorted({str(stream.type) for stream in container.streams}) or ["nothing"]
            raise Problem(
                "no-video",
                415,
                f"{name} contains {' and '.join(kinds)}, and no video. Send a file with moving images.",
            )
        return Video(container, name, live=live)
    except BaseException:
        container.close()
        raise


def _bad(name: str, reason: str) -> Problem:
    return Problem(
        "bad-video",
        415,
        f"{name} cannot be opened as a video ({reason}). Expected a complete file, such as MP4, MOV, WebM, "
        "MKV or AVI; a playlist is not accepted.",
    )


def _too_large(width: int, height: int, name: str) -> Problem:
    return Problem(
        "video-too-large",
        413,
        f"{name} has frames of {width} x {height} pixels; at most {MAX_PIXELS:,} pixels are accepted. "
        "Reduce its size.",
    )


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


def _without_user(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)


def _thumbnail(frame: VideoFrame) -> Pixels:
    width, height = _THUMBNAIL
    small = frame.reformat(width=width, height=height, format="gray", interpolation="FAST_BILINEAR")
    return np.ascontiguousarray(small.to_ndarray())


def _difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _one_field(pixels: Pixels) -> Pixels:
    """Return an interlaced frame with every second line interpolated: the lines show two moments."""
    kept = pixels.astype(np.uint16)
    between = kept[1:-1:2]
    between[:] = (kept[0:-2:2][: len(between)] + kept[2::2][: len(between)]) // 2
    if len(kept) % 2 == 0:
        kept[-1] = kept[-2]
    return kept.astype(np.uint8)
