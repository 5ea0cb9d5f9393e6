"""The picture with boxes and labels, readable on any background and at any size."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from agegender.display import certainty, interval, years
from agegender.predictions import FaceAnswer
from PIL import Image, ImageDraw

from predictor.options import Picture
from predictor.plates import Box, placed

_COLOURS = {"female": "#ffb454", "male": "#5cc8ff"}  # told apart by people who see few colours, too
_INK, _PLATE = "#ffffff", (16, 18, 24, 225)
_JPEG_QUALITY = 90


def annotated(pixels: npt.NDArray[np.uint8], faces: Sequence[FaceAnswer], format: Picture) -> bytes:
    """Draw on upright RGB pixels [height, width, 3]; gives the file's bytes.

    Lines grow with the picture, but never over a small face; letters with the picture and the face. Every
    label is whole and inside the picture.
    """
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image, "RGBA")
    boxes = [_inside(face.bbox, image.size) for face in faces]
    for face, box in zip(faces, boxes, strict=True):
        _frame(pen, box, _COLOURS.get(face.gender.label, _INK), image.size)
    texts = ["\n".join(label_lines(face)) for face in faces]
    for plate in reversed(placed(boxes, texts, image.size)):  # the largest face's label is drawn last, on top
        pen.rounded_rectangle(plate.box, radius=plate.spacing * 1.5, fill=_PLATE)
        pen.multiline_text(plate.corner, plate.text, fill=_INK, font=plate.font, spacing=plate.spacing)
    file = io.BytesIO()
    if format == "JPEG":
        image.save(file, "JPEG", quality=_JPEG_QUALITY)
    else:
        image.save(file, "PNG", compress_level=3)
    return file.getvalue()


def label_lines(face: FaceAnswer) -> tuple[str, str]:
    """Age with its interval, and the likelier gender."""
    low, high = interval(face.age.interval)
    share = face.gender.probability[face.gender.label]
    return f"{years(face.age.mean)} ({low}-{high})", f"{face.gender.label} {certainty(share)}"


def _frame(pen: ImageDraw.ImageDraw, box: Box, colour: str, size: tuple[int, int]) -> None:
    side = min(box[2] - box[0], box[3] - box[1])
    line = max(1, round(min(min(size) / 300, side / 24)))
    pen.rectangle(_grown(box, line), outline=(0, 0, 0, 140), width=line * 3)  # a dark rim for light grounds
    pen.rectangle(box, outline=colour, width=line)


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """Its corners in order, and in the picture."""
    xs, ys = np.clip(sorted(box[::2]), 0, size[0] - 1), np.clip(sorted(box[1::2]), 0, size[1] - 1)
    return float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1])


def _grown(box: Box, by: float) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by
