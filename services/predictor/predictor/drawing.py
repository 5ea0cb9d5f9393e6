"""The picture with boxes and labels, readable on any background and at any size."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from agegender.predictions import FaceAnswer
from PIL import Image, ImageDraw, ImageFont

from predictor.options import Picture

Box = tuple[float, float, float, float]

_COLOURS = {"female": "#ffb454", "male": "#5cc8ff"}  # told apart by people who see few colours, too
_INK, _PLATE = "#ffffff", (16, 18, 24, 225)
_JPEG_QUALITY = 90


def annotated(pixels: npt.NDArray[np.uint8], faces: Sequence[FaceAnswer], format: Picture) -> bytes:
    """Draw on upright RGB pixels [height, width, 3]; gives the file's bytes.

    Lines and letters grow with the picture. A label stands above its box, or below, or inside, where it
    covers no other label and does not leave the picture.
    """
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image, "RGBA")
    unit = max(1, round(min(image.size) / 300))
    taken: list[Box] = []
    for face in faces:
        _frame(pen, face, unit)
    for face in reversed(faces):  # the largest face's label is drawn last, on top
        _label(pen, face, unit, image.size, taken)
    file = io.BytesIO()
    if format == "JPEG":
        image.save(file, "JPEG", quality=_JPEG_QUALITY)
    else:
        image.save(file, "PNG", compress_level=3)
    return file.getvalue()


def label_lines(face: FaceAnswer) -> tuple[str, str]:
    """Age with its interval, and the likelier gender."""
    low, high = face.age.interval
    share = min(0.99, face.gender.probability[face.gender.label])  # no head is surer than that
    return f"{face.age.mean:.0f} ({low:.0f}-{high:.0f})", f"{face.gender.label} {share:.0%}"


def _frame(pen: ImageDraw.ImageDraw, face: FaceAnswer, unit: int) -> None:
    box = _ordered(face.bbox)
    pen.rectangle(_grown(box, unit), outline=(0, 0, 0, 140), width=unit * 3)  # a dark rim for light grounds
    pen.rectangle(box, outline=_COLOURS.get(face.gender.label, _INK), width=unit)


def _label(
    pen: ImageDraw.ImageDraw, face: FaceAnswer, unit: int, size: tuple[int, int], taken: list[Box]
) -> None:
    x1, y1, x2, y2 = _ordered(face.bbox)
    font = ImageFont.load_default(max(11.0, min(unit * 14.0, (x2 - x1) / 4)))
    text = "\n".join(label_lines(face))
    left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font=font, spacing=unit * 2)
    pad = max(2, unit * 2)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = min(max(0.0, (x1 + x2 - width) / 2), max(0.0, size[0] - width))
    gap = unit * 3
    places = [(x, y, x + width, y + height) for y in (y1 - gap - height, y2 + gap, y2 - gap - height)]
    free = [
        place
        for place in places
        if place[1] >= 0 and place[3] <= size[1] and not any(_overlap(place, other) for other in taken)
    ]
    y = min(max(0.0, places[0][1]), max(0.0, size[1] - height))
    plate = free[0] if free else (x, y, x + width, y + height)
    taken.append(plate)
    pen.rounded_rectangle(plate, radius=pad * 1.5, fill=_PLATE)
    pen.multiline_text(
        (plate[0] + pad - left, plate[1] + pad - top), text, fill=_INK, font=font, spacing=unit * 2
    )


def _ordered(box: Box) -> Box:
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _grown(box: Box, by: float) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
