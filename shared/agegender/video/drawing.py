"""Draw the answers of a video: a copy with a label per person, and a plot of persons over time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from PIL import Image, ImageDraw, ImageFont

from agegender.display import duration
from agegender.drawing import BACKGROUND, COLOURS, TEXT, Box, draw_box, label_lines
from agegender.errors import Problem
from agegender.files import atomic_file
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES
from agegender.video.analysis import Bin, VideoAnswer
from agegender.video.decoding import open_video
from agegender.video.persons import MAX_GAP, Person, Track

_H264: Final = ("libx264", {"preset": "veryfast", "crf": "23"})
# Container, encoder and its options by the suffix of the file.
_FORMATS: Final[dict[str, tuple[str, str, dict[str, str]]]] = {
    ".mp4": ("mp4", *_H264),
    ".mkv": ("matroska", *_H264),
    ".mov": ("mov", *_H264),
    ".webm": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}),
}
SUFFIXES: Final = tuple(_FORMATS)
_TIME_BASE: Final = Fraction(1, 90_000)

# From young to old: light to dark, distinguishable with colour vision deficiency (ColorBrewer's YlGnBu).
_GROUP_COLOURS: Final = (
    "#ffffb3", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#0c2c84",
)  # fmt: skip


class Paths:
    """The position of each track's face at any time: 20 bytes per sighting.

    gap : seconds without its face until a track ends.
    """

    def __init__(self, tracks: Iterable[Track] = (), gap: float = MAX_GAP) -> None:
        self._gap = gap
        self._points: dict[int, npt.NDArray[np.float32]] = {}
        for track in tracks:
            self.add(track)

    def add(self, track: Track) -> None:
        self._points[track.track] = np.array(track.path, dtype=np.float32).reshape(-1, 5)

    def box(self, track: int, seconds: float) -> Box | None:
        """Return the box, interpolated between two sightings; None outside the track and in its gaps."""
        points = self._points.get(track)
        if points is None or not len(points):
            return None
        after = int(np.searchsorted(points[:, 0], seconds - 1e-3))
        if after == len(points):
            return None
        later = points[after]
        if seconds >= later[0] - 1e-3:
            return _box(later)
        if after == 0 or later[0] - points[after - 1][0] > self._gap + 1e-3:
            return None
        earlier = points[after - 1]
        share = (seconds - earlier[0]) / max(later[0] - earlier[0], 1e-6)
        return _box(earlier + np.float32(share) * (later - earlier))


def _box(point: npt.NDArray[np.float32]) -> Box:
    x1, y1, x2, y2 = point[1:].tolist()
    return x1, y1, x2, y2


def annotate(
    source: str | Path,
    target: Path,
    persons: Sequence[Person],
    paths: Paths,
    *,
    until: float | None = None,
    progress: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Write a copy of a video in which each face has the final label of its person.

    The copy has no sound. It keeps the times of the frames.

    Parameters
    ----------
    target : its suffix (`SUFFIXES`) determines the format. The file is complete when this returns.
    until : seconds at which the copy ends.
    progress : called with the seconds of each frame.

    Raises ``output-not-writable`` 500, and the problems of `open_video`.
    """
    container, codec, options = _FORMATS[target.suffix.lower()]
    numbers = {one.track: person for person in persons for one in person.appearances}
    labels = _Labels()
    try:
        with (
            open_video(source) as video,
            atomic_file(target) as file,
            av.open(file, "w", format=container) as copy,
        ):
            rate = Fraction(video.info.frame_rate or 25).limit_denominator(1001)
            stream: Any = copy.add_stream(codec, rate=rate)
            stream.options = options
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = _TIME_BASE
            size: tuple[int, int] | None = None
            last = -1
            for frame in video.frames(end=until):
                image = Image.fromarray(frame.rgb())
                if size is None:
                    size = image.width + image.width % 2, image.height + image.height % 2
                    stream.width, stream.height = size
                for track, person in numbers.items():
                    if (box := paths.box(track, frame.seconds)) is not None:
                        labels.draw(image, box, person)
                encoded = VideoFrame.from_ndarray(np.asarray(_sized(image, size)), format="rgb24")
                last = max(last + 1, round(frame.seconds / _TIME_BASE))
                encoded.pts, encoded.time_base = last, _TIME_BASE
                copy.mux(stream.encode(encoded))
                progress(frame.seconds)
            if size is not None:
                copy.mux(stream.encode())
    except (OSError, av.error.FFmpegError) as error:
        raise Problem("output-not-writable", 500, f"{target.name} cannot be written: {error}.") from error


def _sized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image with this size: an encoder needs even sides, and one size for all frames."""
    if image.size == size:
        return image
    if abs(image.width - size[0]) > 1 or abs(image.height - size[1]) > 1:
        return image.resize(size)
    padded = Image.new("RGB", size)
    padded.paste(image)
    return padded


@dataclass
class _Labels:
    """Draw a person's label in letters of one size, always above the box, so that it does not jump."""

    def __post_init__(self) -> None:
        self._letters: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}

    def draw(self, image: Image.Image, box: Box, person: Person) -> None:
        draw = ImageDraw.Draw(image, "RGBA")
        draw_box(draw, box, COLOURS[person.gender.label], image.size)
        text = "\n".join((f"person {person.person}", *label_lines(person)))
        font = self._font(max(11, round(min(image.size) / 40)))
        margin = 4
        left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
        width, height = right - left + 2 * margin, bottom - top + 2 * margin
        x = min(max(0.0, box[0]), max(0.0, image.width - width))
        y = box[1] - height if box[1] >= height else min(box[3], max(0.0, image.height - height))
        draw.rounded_rectangle((x, y, x + width, y + height), radius=4, fill=BACKGROUND)
        draw.multiline_text((x + margin - left, y + margin - top), text, fill=TEXT, font=font)

    def _font(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return self._letters.setdefault(size, ImageFont.load_default(size))


def summary_svg(answer: VideoAnswer) -> str:
    """Return a plot of the persons visible over time, by age group and by gender, as an SVG file."""
    groups = [(name, f"{name} years", _GROUP_COLOURS[index]) for index, name in enumerate(AGE_GROUP_NAMES)]
    genders = [(name, name, COLOURS[name]) for name in GENDER_NAMES]
    most = max((one.persons for one in answer.timeline), default=0)
    persons = f"{len(answer.persons)} persons" if len(answer.persons) != 1 else "1 person"
    part = "" if answer.complete else ", incomplete"
    title = f"{answer.file}: {persons} in {duration(answer.analysed_seconds)}{part}"
    plots = [
        _plot("by age group", answer, [(one.groups, one) for one in answer.timeline], groups, most, 40),
        _plot("by gender", answer, [(one.genders, one) for one in answer.timeline], genders, most, 260),
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 480" font-family="sans-serif" '
        'font-size="12">\n<rect width="800" height="480" fill="white"/>\n'
        f'<text x="20" y="24" font-size="15">{escape(title)}</text>\n{"".join(plots)}</svg>\n'
    )


_LEFT, _WIDTH, _HEIGHT = 60, 600, 150  # of a plot


def _plot(
    name: str,
    answer: VideoAnswer,
    counted: Sequence[tuple[dict[str, int], Bin]],
    series: Sequence[tuple[str, str, str]],
    most: int,
    top: int,
) -> str:
    """Return stacked bars of counts. series : key, label and colour of each layer, from the bottom up."""
    floor, bar = top + 10 + _HEIGHT, _WIDTH / max(1, len(counted))
    unit, per = _HEIGHT / max(1, most), duration(answer.bin_seconds)
    parts = [
        f'<text x="{_LEFT}" y="{top + 4}">Persons visible {name}, per {per}</text>\n',
        f'<line x1="{_LEFT}" y1="{floor}" x2="{_LEFT + _WIDTH}" y2="{floor}" stroke="black"/>\n',
        f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">0</text>\n',
        f'<text x="{_LEFT - 6}" y="{top + 20}" text-anchor="end">{most}</text>\n',
        f'<text x="{_LEFT}" y="{floor + 16}">0 s</text>\n',
        f'<text x="{_LEFT + _WIDTH}" y="{floor + 16}" text-anchor="end">'
        f"{duration(answer.bin_seconds * len(counted))}</text>\n",
    ]
    for index, (counts, _) in enumerate(counted):
        base = float(floor)
        for key, _, colour in series:
            if count := counts[key]:
                base -= count * unit
                parts.append(
                    f'<rect x="{_LEFT + index * bar:.1f}" y="{base:.1f}" width="{bar * 0.92:.1f}" '
                    f'height="{count * unit:.1f}" fill="{colour}" stroke="#444" stroke-width="0.4"/>\n'
                )
    for row, (_, label, colour) in enumerate(reversed(series)):
        y = top + 16 + row * 18
        parts.append(
            f'<rect x="{_LEFT + _WIDTH + 20}" y="{y}" width="12" height="12" fill="{colour}" stroke="#444" '
            f'stroke-width="0.4"/><text x="{_LEFT + _WIDTH + 38}" y="{y + 11}">{escape(label)}</text>\n'
        )
    return "".join(parts)
