"""Decode images of any origin. Limits are checked on the header, before any pixel is decoded."""

import io
import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image, ImageOps
from pillow_heif import register_heif_opener

from agegender.deep_images import deep_pixels, has_separate_planes, is_deep
from agegender.errors import Problem

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_EXIF_ORIENTATION = 0x0112
_START_OF_SCAN = b"\xff\xda"
# Each scan of a progressive JPEG is an uninterruptible pass over all pixels; cameras write 10.
_MAX_SCANS = 100
_STRIP_ROWS = 256

# Pillow only warns at its limit. ImageLimits.max_pixels rejects, so the warning is redundant.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

# Only the image itself is read. Callers decode as many images at once as they have threads for.
register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@dataclass(frozen=True)
class ImageLimits:
    """Limits of one image: size of the file, and width × height."""

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000


@dataclass(frozen=True)
class ImageHeader:
    """Properties of an image that need no decoding. Width and height are those of the upright image."""

    format: str
    width: int
    height: int


def _open(content: bytes, limits: ImageLimits) -> Image.Image:
    if not content:
        raise Problem("empty-image", 400, "The image is empty; send an image file.")
    if len(content) > limits.max_bytes:
        raise Problem(
            "image-too-large",
            413,
            f"The image has {len(content)} bytes; at most {limits.max_bytes} are accepted.",
        )
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:  # twice Pillow's own limit, which is above ours
        raise Problem(
            "too-many-pixels", 413, f"At most {limits.max_pixels} pixels in all are taken."
        ) from error
    except Exception as error:  # Pillow's plugins raise many types for hostile headers
        raise Problem(
            "unreadable-image",
            415,
            f"The bytes are not an image in one of the formats {', '.join(FORMATS)}.",
        ) from error
    if image.format == "JPEG" and content.count(_START_OF_SCAN) > _MAX_SCANS:
        raise Problem("unreadable-image", 415, f"The JPEG has more than {_MAX_SCANS} scans.")
    _check_pixels(image, limits)
    if has_separate_planes(image):
        raise Problem(
            "unreadable-image",
            415,
            "A TIFF with more than 8 bits per sample must have interleaved colours, but this one has one "
            "plane per colour. Save it with planar configuration 1, or as PNG.",
        )
    return image


def _check_pixels(image: Image.Image, limits: ImageLimits) -> None:
    if image.width * image.height > limits.max_pixels:
        raise Problem(
            "too-many-pixels",
            413,
            f"The image has {image.width}x{image.height} pixels; "
            f"at most {limits.max_pixels} in all are taken.",
        )


def read_header(content: bytes, limits: ImageLimits) -> ImageHeader:
    """Check the limits of an image and return its header.

    Raises `Problem`: ``empty-image`` 400, ``image-too-large`` or ``too-many-pixels`` 413,
    ``unreadable-image`` 415.
    """
    with _open(content, limits) as image:
        try:
            sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
        except Exception:  # broken EXIF does not affect the pixels
            sideways = False
        width, height = image.size
        if sideways:
            width, height = height, width
        return ImageHeader(str(image.format), width, height)


def decode(content: bytes, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    """Decode to upright RGB pixels [height, width, 3]; the first frame of an animation.

    Images of more than 8 bits per sample are scaled by their content (see `agegender.deep_images`). Raises
    what `read_header` raises, and ``damaged-image`` 422 if the pixels cannot be decoded.
    """
    with _open(content, limits) as image:
        try:
            if is_deep(image):
                return deep_pixels(image, lambda: _open(content, limits))
            image.load()
        except Exception as error:
            raise Problem(
                "damaged-image", 422, "The image file is damaged or cut short; send the whole file."
            ) from error
        _check_pixels(image, limits)  # pillow-heif corrects the size when it decodes
        with suppress(Exception):  # broken EXIF: keep the stored orientation
            ImageOps.exif_transpose(image, in_place=True)
        return _pixels(image)


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Convert strip by strip, because whole copies would hold a large image several times in memory."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        pixels[top:bottom] = np.asarray(_as_rgb(image.crop((0, top, width, bottom))))
    return pixels


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
