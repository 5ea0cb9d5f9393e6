"""Draw boxes and labels on an image, readable on any background and at any size."""

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from agegender.display import certainty, interval, years
from agegender.predictions import FaceAnswer
from PIL import Image, ImageDraw

from predictor.label_layout import Box, label_boxes

ImageFormat = Literal["PNG", "JPEG"]

_COLOURS = {"female": "#ffb454", "male": "#5cc8ff"}  # distinguishable with colour vision deficiency
_TEXT, _BACKGROUND = "#ffffff", (16, 18, 24, 225)
_JPEG_QUALITY = 90


def annotated(pixels: npt.NDArray[np.uint8], faces: Sequence[FaceAnswer], image_format: ImageFormat) -> bytes:
    """Draw on upright RGB pixels [height, width, 3], and return the image file.

    Line widths grow with the image, but stay thin on small faces; letters grow with image and face. The edges
    of the image never cut off a label.
    """
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image, "RGBA")
    boxes = [_inside(face.bbox, image.size) for face in faces]
    for face, box in zip(faces, boxes, strict=True):
        _frame(draw, box, _COLOURS.get(face.gender.label, _TEXT), image.size)
    texts = ["\n".join(label_lines(face)) for face in faces]
    for label in reversed(label_boxes(boxes, texts, image.size)):  # the largest face's label ends on top
        draw.rounded_rectangle(label.box, radius=label.spacing * 1.5, fill=_BACKGROUND)
        draw.multiline_text(label.corner, label.text, fill=_TEXT, font=label.font, spacing=label.spacing)
    file = io.BytesIO()
    if image_format == "JPEG":
        image.save(file, "JPEG", quality=_JPEG_QUALITY)
    else:
        image.save(file, "PNG", compress_level=3)
    return file.getvalue()


def label_lines(face: FaceAnswer) -> tuple[str, str]:
    """Return the label's lines: age with its interval, and the likelier gender."""
    low, high = interval(face.age.interval)
    share = face.gender.probability[face.gender.label]
    return f"{years(face.age.mean)} ({low}-{high})", f"{face.gender.label} {certainty(share)}"


def _frame(draw: ImageDraw.ImageDraw, box: Box, colour: str, size: tuple[int, int]) -> None:
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
