"""Decode images of any origin to 8 bits. Limits are checked on the header, before any pixel is decoded.

Images of more than 8 bits per sample are scaled by their content. A container of 16 bits often holds 10 or 12
significant bits, and a decoder that keeps the upper byte makes such an image black. Here the number of
significant bits is found from the brightest samples, and white is the largest value of so many bits. A full
16-bit image is divided by 257; floating-point samples up to 1 are multiplied by 255.

Colours are converted to sRGB if the image has an RGB profile of another space, in which the same colours are
other numbers: telephones write Display P3, and cameras Adobe RGB.
"""

import io
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image, ImageCms, ImageOps
from pillow_heif import register_heif_opener

from agegender.avif_size import coded_pixels
from agegender.errors import Problem

Samples = npt.NDArray[Any]
Box = tuple[int, int, int, int]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_EXIF_ORIENTATION = 0x0112
_JPEG, _START_OF_SCAN = b"\xff\xd8\xff", b"\xff\xda"
# Each scan of a progressive JPEG is an uninterruptible pass over all pixels; cameras write 10.
_MAX_SCANS = 100
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # of a segment; the others are in the middle of a scan
_MAX_SEGMENTS = 10_000
_STRIP_ROWS = 256

# Pillow keeps one byte of these samples. Read in the other byte order, the same unpacker keeps the other one.
_OTHER_BYTE = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
_GREY_ALPHA = "LA;16B"  # as one number of 32 bits: grey, then alpha
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION = 258, 262, 284  # TIFF tags
_SEPARATE, _WHITE_IS_ZERO = 2, 0
_MAX_PROFILE = 1024**2  # bytes; those of RGB spaces have a few hundred
_SAME_COLOUR = 3  # of 255; between the variants of sRGB in circulation

_BRIGHTEST = 0.999  # quantile that must be within white; a few hot pixels may be above it
_SAMPLES = 1_000_000  # at most, for that quantile

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
            "too-many-pixels",
            413,
            f"Too many pixels; at most {limits.max_pixels} are accepted.",
        ) from error
    except Exception as error:  # Pillow's plugins raise many types for hostile headers
        raise Problem(
            "unreadable-image",
            415,
            f"The bytes are not an image in one of the formats {', '.join(FORMATS)}.",
        ) from error
    if content.startswith(_JPEG) and _has_many_scans(content):
        raise Problem("unreadable-image", 415, f"The JPEG has more than {_MAX_SCANS} scans; save it again.")
    _check_pixels(image, limits)
    if image.format == "AVIF":
        _check_coded_pixels(content, limits)
    if has_separate_planes(image):
        raise Problem(
            "unreadable-image",
            415,
            "A TIFF with more than 8 bits per sample must have interleaved colours, but this one has one "
            "plane per colour. Save it with planar configuration 1, or as PNG.",
        )
    return image


def _has_many_scans(content: bytes) -> bool:
    """Return whether a JPEG has too many scans, up to its end: telephones append a film."""
    if content.count(_START_OF_SCAN) <= _MAX_SCANS:
        return False
    position, scans = 2, 0
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.search(content, position)
        if match is None or match[1] == b"\xd9":  # the end of the image
            return False
        scans += match[1] == b"\xda"
        if scans > _MAX_SCANS:
            return True
        position = match.end()
        if match[1] not in (b"\x01", b"\xd8"):
            position += max(2, int.from_bytes(content[position : position + 2]))
    return True


def _check_pixels(image: Image.Image, limits: ImageLimits) -> None:
    if image.width * image.height > limits.max_pixels:
        raise Problem(
            "too-many-pixels",
            413,
            f"The image has {image.width}x{image.height} pixels; at most {limits.max_pixels} are accepted.",
        )


def _check_coded_pixels(content: bytes, limits: ImageLimits) -> None:
    try:
        pixels = coded_pixels(content)
    except ValueError as error:
        raise Problem("unreadable-image", 415, f"The AVIF image cannot be read: {error}.") from error
    if pixels > limits.max_pixels:
        raise Problem(
            "too-many-pixels",
            413,
            f"A frame of the image has {pixels} pixels; at most {limits.max_pixels} in all are taken.",
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
    """Decode to upright sRGB pixels [height, width, 3]; the first frame of an animation.

    Images of more than 8 bits per sample are scaled by their content. Raises
    what `read_header` raises, and ``damaged-image`` 422 if the pixels cannot be decoded.
    """
    with _open(content, limits) as image:
        transform = srgb_transform(image)
        try:
            if is_deep(image):
                return _converted(deep_pixels(image, lambda: _open(content, limits)), transform)
            image.load()
        except Exception as error:
            raise Problem(
                "damaged-image", 422, "The image file is damaged or cut short; send the whole file."
            ) from error
        _check_pixels(image, limits)  # pillow-heif corrects the size when it decodes
        with suppress(Exception):  # broken EXIF: keep the stored orientation
            ImageOps.exif_transpose(image, in_place=True)
        return _converted(_pixels(image), transform)


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Convert strip by strip, because whole copies would hold a large image several times in memory."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        pixels[top:bottom] = np.asarray(_as_rgb(image.crop((0, top, width, bottom))))
    return pixels


def _converted(
    pixels: npt.NDArray[np.uint8], transform: ImageCms.ImageCmsTransform | None
) -> npt.NDArray[np.uint8]:
    """Convert colours in place.

    Nothing is gained by converting around faces alone: landmarks differ if the colours do, and so embeddings.
    """
    if transform is None:
        return pixels
    for top in range(0, len(pixels), _STRIP_ROWS):
        strip = pixels[top : top + _STRIP_ROWS]
        strip[:] = np.asarray(ImageCms.applyTransform(Image.fromarray(strip), transform))
    return pixels


def srgb_transform(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion of an image's colours to sRGB; None if they are sRGB or of no known RGB space."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or image.mode in ("CMYK", "L", "LA", "1"):
        return None
    return _to_srgb(profile) if 0 < len(profile) <= _MAX_PROFILE else None


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    levels = np.linspace(0, 255, 6).astype(np.uint8)
    colours = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(6, 36, 3))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        converted = ImageCms.applyTransform(colours, transform)
    except Exception:  # a broken profile, or one of another colour space; the image is read without it
        return None
    assert converted is not None
    difference = np.abs(np.asarray(colours, np.int16) - np.asarray(converted, np.int16))
    return transform if difference.max() > _SAME_COLOUR else None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Return whether an image that was opened, but not loaded, has more than 8 bits per sample."""
    return image.mode.startswith(("I", "F")) or _raw_mode(image) in (*_OTHER_BYTE, _GREY_ALPHA)


def has_separate_planes(image: Image.Image) -> bool:
    """Return whether a TIFF has one plane per colour and more than 8 bits, which Pillow reads wrongly."""
    tags = getattr(image, "tag_v2", {})
    deep = max(tags.get(_BITS_PER_SAMPLE, (8,)), default=8) > 8
    return bool(deep and tags.get(_PLANAR_CONFIGURATION) == _SEPARATE and len(image.getbands()) > 1)


def deep_pixels(image: Image.Image, again: Callable[[], Image.Image]) -> npt.NDArray[np.uint8]:
    """Return the RGB pixels [height, width, 3] of a deep image, upright; transparent ones are white.

    Parameters
    ----------
    image : opened, but not loaded.
    again : opens the same file once more.

    Raises what Pillow raises for damaged files.
    """
    raw_mode = _raw_mode(image)
    if raw_mode == _GREY_ALPHA:
        image._mode = "I"
        _set_raw_mode(image, "I;32B")
    _load_upright(image)
    if raw_mode not in _OTHER_BYTE:
        return _scaled(image, lambda box: _grey_strip(image.crop(box), raw_mode))
    with again() as other:
        _set_raw_mode(other, _OTHER_BYTE[raw_mode])
        _load_upright(other)
        return _scaled(image, lambda box: _joined(np.asarray(image.crop(box)), np.asarray(other.crop(box))))


def white_level(samples: Samples) -> float:
    """Return the value of white: the largest that the significant bits of these samples can hold.

    There are 8 significant bits or more, as many as the 99.9th percentile of the samples has. White is 1 for
    floating-point samples whose percentile is at most 1.
    """
    finite = samples[np.isfinite(samples)].astype(np.float64)
    brightest = float(np.quantile(finite, _BRIGHTEST, method="lower")) if len(finite) else 0.0
    if samples.dtype.kind == "f" and brightest <= 1:
        return 1.0
    return float(2 ** max(8, int(np.ceil(np.log2(max(brightest, 0.0) + 1)))) - 1)


def _scaled(image: Image.Image, strip: Callable[[Box], Samples]) -> npt.NDArray[np.uint8]:
    """Scale strips [rows, width, 1 to 4] of samples to RGB; the second or fourth is 16 bits of alpha."""
    width, height = image.size
    boxes = [(0, top, width, min(top + _STRIP_ROWS, height)) for top in range(0, height, _STRIP_ROWS)]
    step = max(1, width * height // _SAMPLES)
    samples_of = (_colours(strip(box)) for box in boxes)
    white = white_level(np.concatenate([one.reshape(-1, one.shape[2])[::step].ravel() for one in samples_of]))
    transparent = image.info.get("transparency")
    is_negative = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    pixels = np.empty((height, width, 3), np.uint8)
    for box in boxes:
        samples = strip(box)
        colours = _colours(samples)
        values = np.clip(np.nan_to_num(colours.astype(np.float64)), 0, white) * (255 / white)
        if is_negative:  # Pillow inverts samples of 8 bits only
            values = 255 - values
        if colours.shape[2] < samples.shape[2]:
            opaque = samples[..., -1:].astype(np.float64) / 65535
            values = values * opaque + 255 * (1 - opaque)
        elif isinstance(transparent, int | tuple):
            values[(colours == np.array(transparent)).all(axis=2)] = 255
        pixels[box[1] : box[3]] = np.rint(values)
    return pixels


def _colours(samples: Samples) -> Samples:
    """Return [rows, width, 1 or 3], without alpha."""
    return samples[..., :-1] if samples.shape[2] in (2, 4) else samples


def _grey_strip(strip: Image.Image, raw_mode: str) -> Samples:
    samples = np.asarray(strip)[..., None]
    if raw_mode == _GREY_ALPHA:
        both = samples.view(np.uint32)
        return np.concatenate([both >> 16, both & 0xFFFF], axis=2)
    unsigned = raw_mode.startswith("I;32") and not raw_mode.endswith("S")
    return samples.view(np.uint32) if unsigned else samples


def _joined(upper: npt.NDArray[np.uint8], lower: npt.NDArray[np.uint8]) -> Samples:
    return (upper.astype(np.uint16) << 8) | lower


def _load_upright(image: Image.Image) -> None:
    image.load()
    with suppress(Exception):  # broken EXIF: keep the stored orientation
        ImageOps.exif_transpose(image, in_place=True)


def _raw_mode(image: Image.Image) -> str:
    """Return how the samples lie in the file, as Pillow names it; empty if it is decoded otherwise."""
    for tile in getattr(image, "tile", [])[:1]:
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if arguments and isinstance(arguments[0], str):
            return arguments[0]
    return ""


def _set_raw_mode(image: Any, raw_mode: str) -> None:
    image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in image.tile
    ]
