"""Where the labels of an annotated picture stand, and how large their letters are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
Boxes = npt.NDArray[np.float64]  # [count, 4]

_SMALLEST = 11  # pixels; letters below it are hard to read
_MEASURE = ImageDraw.Draw(Image.new("L", (1, 1)))


@dataclass(frozen=True)
class Plate:
    """A label's ground, and the text's place on it. All in pixels of the picture."""

    text: str
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont
    spacing: float
    corner: tuple[float, float]
    box: Box


@dataclass(frozen=True)
class _Size:
    """A text set in letters of one size, with its margin."""

    font: ImageFont.ImageFont | ImageFont.FreeTypeFont
    margin: int
    spacing: float
    left: float
    top: float
    width: float
    height: float


def placed(boxes: Sequence[Box], texts: Sequence[str], size: tuple[int, int]) -> list[Plate]:
    """One plate a face, inside the picture of `size` [width, height].

    The first faces choose first: above, below or beside their boxes, where least of other labels and of faces
    is covered. Where every place covers a label or another face, smaller letters are tried.
    """
    faces, labels = np.array(boxes, float).reshape(-1, 4), np.zeros((len(boxes), 4))
    plates = []
    for index, (box, text) in enumerate(zip(boxes, texts, strict=True)):
        others = np.delete(faces, index, axis=0)
        plates.append(_best(box, text, size, others, labels[:index]))
        labels[index] = plates[-1].box
    return plates


def _best(box: Box, text: str, size: tuple[int, int], others: Boxes, labels: Boxes) -> Plate:
    x1, y1, x2, y2 = box
    own = np.array([box, (x1, y1, x2, (y1 + y2) / 2)])  # the eyes' half counts twice
    choices: list[tuple[float, Plate]] = []
    for letters in _sizes(box, text, size):
        places = _places(box, letters, size)
        foreign = 4 * _covered(places, labels) + _covered(places, others)
        cost = foreign + _covered(places, own)
        at = int(np.argmin(cost))
        choices.append((float(cost[at]), _plate(text, letters, places[at])))
        if foreign[at] == 0:
            return choices[-1][1]
    return min(choices, key=lambda choice: choice[0])[1]


def _plate(text: str, letters: _Size, place: npt.NDArray[np.float64]) -> Plate:
    x1, y1, x2, y2 = place.tolist()
    corner = x1 + letters.margin - letters.left, y1 + letters.margin - letters.top
    return Plate(text, letters.font, letters.spacing, corner, (x1, y1, x2, y2))


def _sizes(box: Box, text: str, size: tuple[int, int]) -> Iterator[_Size]:
    """As large as the face allows, readable where the picture is seen 1,000 pixels wide; then smaller."""
    long, short = max(size), min(size)
    readable = max(_SMALLEST, min(long / 70, short / 20))
    largest = max(readable, short / 21)
    wanted = round(min(max(readable, (box[2] - box[0]) / 4), largest))
    for pixels in (wanted, round(wanted * 0.75), round(wanted * 0.5)):
        if pixels == wanted or pixels >= _SMALLEST:
            yield _fitting(text, pixels, size)


def _fitting(text: str, pixels: int, size: tuple[int, int]) -> _Size:
    letters = _set(text, pixels)
    while pixels > 1 and (letters.width > size[0] or letters.height > size[1]):
        pixels -= 1
        letters = _set(text, pixels)
    return letters


@lru_cache(maxsize=4096)
def _set(text: str, pixels: int) -> _Size:
    font, spacing = _font(pixels), pixels / 7
    left, top, right, bottom = _MEASURE.multiline_textbbox((0, 0), text, font=font, spacing=spacing)
    margin = max(1, round(pixels / 7))
    return _Size(font, margin, spacing, left, top, right - left + 2 * margin, bottom - top + 2 * margin)


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(pixels)


def _places(box: Box, letters: _Size, size: tuple[int, int]) -> Boxes:
    """[4, 4]: above, below, right and left of the box, each pushed into the picture."""
    x1, y1, x2, y2 = box
    width, height, gap = letters.width, letters.height, 2 * letters.margin  # clear of the frame
    middle_x, middle_y = (x1 + x2 - width) / 2, (y1 + y2 - height) / 2
    corners = np.array(
        [
            (middle_x, y1 - gap - height),
            (middle_x, y2 + gap),
            (x2 + gap, middle_y),
            (x1 - gap - width, middle_y),
        ]
    )
    room = np.maximum(0, np.array([size[0] - width, size[1] - height]))
    corners = np.clip(corners, 0, room)
    return np.concatenate([corners, corners + np.array([width, height])], axis=1)


def _covered(places: Boxes, others: Boxes) -> npt.NDArray[np.float64]:
    """Of each place, the area that lies on the others, in square pixels."""
    one, other = places[:, None], others[None]
    width = np.minimum(one[..., 2], other[..., 2]) - np.maximum(one[..., 0], other[..., 0])
    height = np.minimum(one[..., 3], other[..., 3]) - np.maximum(one[..., 1], other[..., 1])
    areas: Boxes = np.clip(width, 0, None) * np.clip(height, 0, None)
    return np.asarray(areas.sum(axis=1))
