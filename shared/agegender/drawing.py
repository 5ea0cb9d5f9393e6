"""Draw boxes and labels on an image, readable on any background and at any size.

Labels are laid out before they are drawn: each gets a position and a letter size that cover little.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from agegender.display import certainty, interval, years
from agegender.predictions import AgeAnswer, FaceAnswer, GenderAnswer

Box = tuple[float, float, float, float]
Boxes = npt.NDArray[np.float64]  # [count, 4]
ImageFormat = Literal["PNG", "JPEG"]

COLOURS = {"female": "#ffb454", "male": "#5cc8ff"}  # distinguishable with colour vision deficiency
TEXT, BACKGROUND = "#ffffff", (16, 18, 24, 225)
_JPEG_QUALITY = 90
_SMALLEST = 11  # pixels; letters below it are hard to read
_MEASURE = ImageDraw.Draw(Image.new("L", (1, 1)))


def annotated(pixels: npt.NDArray[np.uint8], faces: Sequence[FaceAnswer], image_format: ImageFormat) -> bytes:
    """Draw on upright RGB pixels [height, width, 3], and return the image file.

    Line widths grow with the image, but stay thin on small faces; letters grow with image and face. The edges
    of the image never cut off a label.
    """
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image, "RGBA")
    boxes = [_inside(face.bbox, image.size) for face in faces]
    for face, box in zip(faces, boxes, strict=True):
        draw_box(draw, box, COLOURS.get(face.gender.label, TEXT), image.size)
    texts = ["\n".join(label_lines(face)) for face in faces]
    for label in reversed(label_boxes(boxes, texts, image.size)):  # the largest face's label ends on top
        draw.rounded_rectangle(label.box, radius=label.spacing * 1.5, fill=BACKGROUND)
        draw.multiline_text(label.corner, label.text, fill=TEXT, font=label.font, spacing=label.spacing)
    file = io.BytesIO()
    if image_format == "JPEG":
        image.save(file, "JPEG", quality=_JPEG_QUALITY)
    else:
        image.save(file, "PNG", compress_level=3)
    return file.getvalue()


class Estimated(Protocol):
    """Anything with an age and a gender: a face, or a person of a video."""

    @property
    def age(self) -> AgeAnswer: ...

    @property
    def gender(self) -> GenderAnswer: ...


def label_lines(face: Estimated) -> tuple[str, str]:
    """Return the label's lines: age with its interval, and the likelier gender."""
    low, high = interval(face.age.interval)
    share = face.gender.probability[face.gender.label]
    return f"{years(face.age.mean)} ({low}-{high})", f"{face.gender.label} {certainty(share)}"


def draw_box(draw: ImageDraw.ImageDraw, box: Box, colour: str, size: tuple[int, int]) -> None:
    """Draw the outline of a face, visible on any background, on an image of `size` (width, height)."""
    side = min(box[2] - box[0], box[3] - box[1])
    line = max(1, round(min(min(size) / 300, side / 24)))
    draw.rectangle(_grown(box, line), outline=(0, 0, 0, 140), width=line * 3)  # for light images
    draw.rectangle(box, outline=colour, width=line)


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """Sort the corners of a box and clip them to the image."""
    xs, ys = np.clip(sorted(box[::2]), 0, size[0] - 1), np.clip(sorted(box[1::2]), 0, size[1] - 1)
    return float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1])


def _grown(box: Box, by: float) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


@dataclass(frozen=True)
class LabelBox:
    """Background box and text position of a label, in pixels of the image."""

    text: str
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont
    spacing: float
    corner: tuple[float, float]
    box: Box


@dataclass(frozen=True)
class _TextSize:
    """A text in one letter size, with its margin, in pixels."""

    font: ImageFont.ImageFont | ImageFont.FreeTypeFont
    margin: int
    spacing: float
    left: float
    top: float
    width: float
    height: float


def label_boxes(boxes: Sequence[Box], texts: Sequence[str], size: tuple[int, int]) -> list[LabelBox]:
    """Return one label per face, inside an image of `size` (width, height).

    In order, each face gets the position above, below or beside its box that covers least of faces and of
    earlier labels.
    If every position covers a label or another face, smaller letters are tried.
    """
    faces, labels = np.array(boxes, float).reshape(-1, 4), np.zeros((len(boxes), 4))
    placed = []
    for index, (box, text) in enumerate(zip(boxes, texts, strict=True)):
        others = np.delete(faces, index, axis=0)
        placed.append(_best(box, text, size, others, labels[:index]))
        labels[index] = placed[-1].box
    return placed


def _best(box: Box, text: str, size: tuple[int, int], others: Boxes, labels: Boxes) -> LabelBox:
    x1, y1, x2, y2 = box
    own = np.array([box, (x1, y1, x2, (y1 + y2) / 2)])  # the half with the eyes counts twice
    choices: list[tuple[float, LabelBox]] = []
    for letters in _sizes(box, text, size):
        positions = _positions(box, letters, size)
        overlap = 4 * _covered(positions, labels) + _covered(positions, others)
        cost = overlap + _covered(positions, own)
        best = int(np.argmin(cost))
        choices.append((float(cost[best]), _label_box(text, letters, positions[best])))
        if overlap[best] == 0:
            return choices[-1][1]
    return min(choices, key=lambda choice: choice[0])[1]


def _label_box(text: str, letters: _TextSize, position: npt.NDArray[np.float64]) -> LabelBox:
    x1, y1, x2, y2 = position.tolist()
    corner = x1 + letters.margin - letters.left, y1 + letters.margin - letters.top
    return LabelBox(text, letters.font, letters.spacing, corner, (x1, y1, x2, y2))


def _sizes(box: Box, text: str, size: tuple[int, int]) -> Iterator[_TextSize]:
    """Yield letter sizes: as large as the face allows and readable at 1,000 pixels width, then smaller."""
    long, short = max(size), min(size)
    readable = max(_SMALLEST, min(long / 70, short / 20))
    largest = max(readable, short / 21)
    preferred = round(min(max(readable, (box[2] - box[0]) / 4), largest))
    for pixels in (preferred, round(preferred * 0.75), round(preferred * 0.5)):
        if pixels == preferred or pixels >= _SMALLEST:
            yield _fitting(text, pixels, size)


def _fitting(text: str, pixels: int, size: tuple[int, int]) -> _TextSize:
    letters = _text_size(text, pixels)
    while pixels > 1 and (letters.width > size[0] or letters.height > size[1]):
        pixels -= 1
        letters = _text_size(text, pixels)
    return letters


@lru_cache(maxsize=4096)
def _text_size(text: str, pixels: int) -> _TextSize:
    font, spacing = _font(pixels), pixels / 7
    left, top, right, bottom = _MEASURE.multiline_textbbox((0, 0), text, font=font, spacing=spacing)
    margin = max(1, round(pixels / 7))
    return _TextSize(font, margin, spacing, left, top, right - left + 2 * margin, bottom - top + 2 * margin)


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(pixels)


def _positions(box: Box, letters: _TextSize, size: tuple[int, int]) -> Boxes:
    """Return four boxes [4, 4]: above, below, right and left of `box`, each moved inside the image."""
    x1, y1, x2, y2 = box
    width, height, gap = letters.width, letters.height, 2 * letters.margin  # outside of the frame
    middle_x, middle_y = (x1 + x2 - width) / 2, (y1 + y2 - height) / 2
    corners = np.array(
        [
            (middle_x, y1 - gap - height),
            (middle_x, y2 + gap),
            (x2 + gap, middle_y),
            (x1 - gap - width, middle_y),
        ]
    )
    free = np.maximum(0, np.array([size[0] - width, size[1] - height]))
    corners = np.clip(corners, 0, free)
    return np.concatenate([corners, corners + np.array([width, height])], axis=1)


def _covered(positions: Boxes, others: Boxes) -> npt.NDArray[np.float64]:
    """Return the area of each position that overlaps the others, in square pixels."""
    one, other = positions[:, None], others[None]
    width = np.minimum(one[..., 2], other[..., 2]) - np.maximum(one[..., 0], other[..., 0])
    height = np.minimum(one[..., 3], other[..., 3]) - np.maximum(one[..., 1], other[..., 1])
    areas: Boxes = np.clip(width, 0, None) * np.clip(height, 0, None)
    return np.asarray(areas.sum(axis=1))
