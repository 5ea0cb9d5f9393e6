"""Pictures made so that a container without EXIF, alpha or grey sees what a person sees."""

import io
from dataclasses import dataclass

from agegender.deep_images import is_deep
from agegender.images import FORMATS, ImageLimits, decode
from PIL import Image

_PLAIN_FORMATS = ("JPEG", "PNG")
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class UprightImage:
    content: bytes
    width: int
    height: int


def upright_rgb(content: bytes, limits: ImageLimits) -> UprightImage:
    """The file itself where it is an upright 8-bit RGB JPEG or PNG, else its pixels as PNG (lossless).

    Raises what `agegender.images.decode` raises: a damaged file is found here, as the original container
    answers it with a bare 500.
    """
    pixels = decode(content, limits)
    height, width = pixels.shape[:2]
    if _is_plain(content):
        return UprightImage(content, width, height)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return UprightImage(file.getvalue(), width, height)


def _is_plain(content: bytes) -> bool:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.format not in _PLAIN_FORMATS or image.mode != "RGB" or "transparency" in image.info:
            return False
        if is_deep(image):  # its mode is RGB too
            return False
        try:
            return bool(image.getexif().get(_ORIENTATION, 1) == 1)
        except Exception:  # broken EXIF says nothing about the pixels
            return True
