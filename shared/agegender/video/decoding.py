"""Decode videos with PyAV: files, cameras and RTSP streams.

A container comes from anybody, so only formats that hold their data in one file are accepted, and only the
protocol that the source needs (`_FORMATS`, `_PROTOCOLS`): no playlist or concatenation can open other files
or addresses. Frames are decoded one by one; nothing grows with the length of the video.
"""

import io
import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image
from pydantic import BaseModel, Field

from agegender.errors import Problem
from agegender.video import Clock, tagged_duration

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS: Final = 8192 * 4320  # of one frame
MAX_SECONDS: Final = 12 * 3600.0  # of one file
MAX_SIDE: Final = 1280  # longest side of the frames in which faces are searched, in pixels
_MAX_BROKEN: Final = 200  # packets in a row that cannot be decoded
_LIVE_SECONDS: Final = (10.0, 10.0)  # to open a live source, and to wait for its next frame
_THUMBNAIL: Final = (32, 18)
_SEEK_BACK, _SEEK_PAST_END = 2.0, 16.0  # the first step back of a seek, and the last one if nothing follows
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

    seconds : time since the start of the video.
    """

    def __init__(self, frame: VideoFrame, seconds: float, aspect: float) -> None:
        self.seconds = seconds
        self._frame = frame
        self._aspect = aspect

    @cached_property
    def size(self) -> tuple[int, int]:
        """Return width and height in pixels, upright and with square pixels."""
        width, height = max(1, round(self._frame.width * self._aspect)), self._frame.height
        return (height, width) if self._turns % 2 else (width, height)

    @cached_property
    def thumbnail(self) -> Pixels:
        """Return the luminance [18, 32]."""
        width, height = _THUMBNAIL
        small = self._frame.reformat(width, height, format="gray", interpolation="FAST_BILINEAR")
        return np.ascontiguousarray(small.to_ndarray())

    @property
    def _turns(self) -> int:
        """Return the quarter turns, counterclockwise, that make the frame upright."""
        return round(self._frame.rotation / 90) % 4

    def scale(self, max_side: int | None = MAX_SIDE) -> float:
        """Return the size of the reduced frame as a share of its own, at most 1."""
        return 1.0 if max_side is None else min(1.0, max_side / max(self.size))

    def rgb(self, max_side: int | None = None) -> Pixels:
        """Return the upright frame as RGB [height, width, 3], its longer side at most `max_side` pixels."""
        width, height = self.size
        scale = self.scale(max_side)
        shown = max(1, round(width * scale)), max(1, round(height * scale))
        across = shown[::-1] if self._turns % 2 else shown
        if self._frame.interlaced_frame:
            pixels = _one_field(np.asarray(self._frame.to_ndarray(format="rgb24"), dtype=np.uint8))
            if across != (pixels.shape[1], pixels.shape[0]):
                pixels = np.asarray(Image.fromarray(pixels).resize(across, Image.Resampling.BILINEAR))
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


class Video:
    """An open video. Use `open_video`.

    problem : why the frames ended before the video did; None if they did not, or have not ended yet.
    """

    def __init__(self, container: Any, name: str, *, live: bool) -> None:
        self._container = container
        self._stream = container.streams.video[0]
        self.name = name
        self.problem: Problem | None = None
        self._found = False  # a packet, since the last seek
        self._images_alone = False  # whether the stated duration is theirs, and not that of the sound too
        self._others_end = -math.inf  # the last time stamp of sound and other streams
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

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def _duration(self) -> float | None:
        base, whole = float(self._stream.time_base or 0), (self._container.duration or 0) / av.time_base
        own = (self._stream.duration or 0) * base
        if not own and self._container.format.name.startswith("matroska"):
            # It states the times at which the file and, in a tag, the images end.
            start = (self._stream.start_time or 0) * base
            own, whole = tagged_duration(self._stream.metadata) - start, whole - start
            own = min(own, whole) if whole > 0 else own
        self._images_alone = own > 0
        seconds = own if own > 0 else whole
        return round(seconds, 3) if 0 < seconds < 1e9 else None

    @property
    def has_index(self) -> bool:
        """Return whether the container has an index. That of a fragmented MP4 has only the first frames."""
        if not self.info.container.startswith("mov,"):
            return self.info.container.startswith(("matroska,", "avi"))
        entries = self._stream.index_entries
        last = float(entries[-1].timestamp * self._stream.time_base) if len(entries) else 0.0
        return last >= (self.info.seconds or 0.0) - max(_INCOMPLETE_SECONDS, 3 * self.clock().step)

    def frames(self, start: float = 0.0, end: float | None = None) -> Iterator[Frame]:
        """Yield the frames from `start` to before `end`, in seconds.

        Damaged frames are skipped. If the video ends early, is too long, or a frame is too large, the
        frames end and `problem` states why.
        """
        clock = self.clock()
        for decoded in self._decoded_from(start, clock.origin):
            if decoded.width * decoded.height > MAX_PIXELS:
                self.problem = _too_large(decoded.width, decoded.height, self.name)
                return
            seconds = clock.of(decoded.time)
            if not self.info.live and seconds > MAX_SECONDS:
                what = f"{self.name} is longer than {MAX_SECONDS / 3600:g} hours. The rest was not read."
                self.problem = Problem("video-too-large", 413, what)
                return
            if end is not None and seconds >= end:
                return
            if seconds < start:
                continue
            frame = Frame(decoded, seconds, self._aspect)
            self.info.width, self.info.height = frame.size  # upright: only frames have their rotation
            yield frame
        self.problem = self.problem or self._why_incomplete(start if clock.last is None else clock.last)

    def clock(self) -> Clock:
        """Return a clock for time stamps of this video."""
        start, base = self._stream.start_time, self._stream.time_base
        origin = float(start * base) if start is not None and base else None
        farthest = 0.0 if self.info.live else self.info.seconds or MAX_SECONDS
        return Clock(1 / (self._rate or 25.0), origin, farthest)

    def _decoded_from(self, start: float, origin: float | None) -> Iterator[VideoFrame]:
        """Yield decoded frames, so that none from `start` seconds on is missing.

        Some containers, such as MPEG-TS, have no index of key frames: a seek leads to a time stamp, and the
        frames up to the next key frame cannot be decoded. So seek further back, until one before is decoded.
        """
        back = 0.0
        while origin is not None and back < start and self._seek(origin + start - back):
            frames = self._decoded(after_seek=True)
            first = next(frames, None)
            if first is not None and first.time is not None and first.time - origin <= start:
                yield first
                yield from frames
                return
            if not self._found and back >= _SEEK_PAST_END:  # a truncated file
                return
            self.problem = None
            back = max(_SEEK_BACK, 2 * back)
        if back and origin is not None:
            # Before the first time stamp: the first packet is decoded before it is shown.
            _ = self._seek(origin - _SEEK_BACK) or self._seek(origin)
        yield from self._decoded()

    def _seek(self, time: float) -> bool:
        """Move to before a time stamp. Returns False if this is not possible: a file without an index."""
        try:
            self._container.seek(int(time / self._stream.time_base), stream=self._stream)
        except av.error.FFmpegError:
            return False
        return True

    def time_stamps(self) -> Iterator[float]:
        """Yield the time stamps of a file in seconds, in the order of the file, without decoding it."""
        for packet in self._packets():
            if packet.dts is not None:
                yield float(packet.dts * packet.time_base)

    def _packets(self) -> "Iterator[Packet[VideoStream]]":
        """Yield the packets of the images. Sets `problem` at an error that ends the video."""
        try:
            for packet in self._container.demux():
                if packet.stream.index == self._stream.index:
                    yield packet
                elif packet.pts is not None:
                    self._others_end = max(self._others_end, float(packet.pts * packet.time_base))
        except (av.error.FFmpegError, OSError) as error:
            self.problem = self._incomplete(f"reading failed ({_reason(error)})")

    def _decoded(self, *, after_seek: bool = False) -> Iterator[VideoFrame]:
        """Yield every frame that can be decoded. Sets `problem` at an error that ends the video.

        after_seek : begin at the next key frame.
        """
        broken, self._found = 0, False
        for packet in self._packets():
            self._found = self._found or packet.size > 0
            after_seek = after_seek and not packet.is_keyframe
            if after_seek:
                continue
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                broken += 1
                if broken >= _MAX_BROKEN:
                    what = f"{broken} pieces in a row cannot be decoded ({_reason(error)})"
                    self.problem = self._incomplete(what)
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
        enough = stated - max(_INCOMPLETE_SECONDS, _INCOMPLETE_SHARE * stated)
        others_end = -math.inf if self._images_alone else self._others_end - (self.clock().origin or 0.0)
        if max(last + 1 / (self._rate or 25.0), others_end) >= enough:
            return None
        return self._incomplete(f"it ends at {last:.1f} s of {stated:.1f} s")

    def _incomplete(self, what: str) -> Problem:
        if self.info.live:
            what = f"{self.name} ended: {what}. Check the camera and its network."
        else:
            what = f"{self.name} is damaged or truncated: {what}. The answers are those of the frames before."
        return Problem("video-incomplete", 422, what)


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
    name = Path(text).name if address is None else re.sub(r"//[^/@]*@", "//", text)
    if address is not None:
        return _opened(text, name, *_stream(address[1].lower(), name), live=True)
    if text.isdigit() or text.startswith("/dev/video"):
        return _opened(*_camera(text), live=True)
    path = Path(text)
    if not path.is_file():
        what = f"{name} is not a file; expected a video file, a camera or rtsp://…."
        raise Problem("no-such-video", 404, what)
    if path.stat().st_size == 0:
        raise _bad(name, "the file is empty")
    options = {"protocol_whitelist": _PROTOCOLS["file"], "format_whitelist": _FORMATS}
    # `file:` keeps a name such as `concat:a|b` from being read as an address.
    return _opened(f"file:{path.resolve()}", name, None, options, live=False)


def _stream(scheme: str, name: str) -> tuple[str, dict[str, str]]:
    if scheme not in ("rtsp", "rtsps"):
        what = f"{name} cannot be opened: the scheme is {scheme}; expected a file, a camera, or rtsp://…."
        raise Problem("bad-video", 415, f"{what} Download the video first.")
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
            kinds = " and ".join(sorted({str(one.type) for one in container.streams})) or "nothing"
            what = f"{name} contains {kinds}, and no video. Send a file with moving images."
            raise Problem("no-video", 415, what)
        return Video(container, name, live=live)
    except BaseException:
        container.close()
        raise


def _bad(name: str, reason: str) -> Problem:
    what = f"{name} cannot be opened as a video ({reason}). Expected a complete file, such as MP4, MOV,"
    return Problem("bad-video", 415, f"{what} WebM, MKV or AVI; a playlist is not accepted.")


def _too_large(width: int, height: int, name: str) -> Problem:
    what = f"{name} has frames of {width} x {height} pixels; at most {MAX_PIXELS:,} pixels are accepted."
    return Problem("video-too-large", 413, f"{what} Reduce its size.")


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


def _one_field(pixels: Pixels) -> Pixels:
    """Return an interlaced frame with every second line interpolated: the lines show two moments."""
    kept = pixels.astype(np.uint16)
    between = kept[1:-1:2]
    between[:] = (kept[0:-2:2][: len(between)] + kept[2::2][: len(between)]) // 2
    if len(kept) % 2 == 0:
        kept[-1] = kept[-2]
    return kept.astype(np.uint8)
