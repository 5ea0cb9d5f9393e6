"""Scale images of more than 8 bits per sample to 8 bits by their content.

A container of 16 bits often holds 10 or 12 significant bits, and a decoder that keeps the upper byte makes
such an image black. Here the number of significant bits is found from the brightest samples, and white is the
largest value of so many bits. A full 16-bit image is divided by 257; floating-point samples up to 1 are
multiplied by 255.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Samples = npt.NDArray[Any]
Box = tuple[int, int, int, int]

# Pillow keeps one byte of these samples. Read in the other byte order, the same unpacker keeps the other one.
_OTHER_BYTE = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
_GREY_ALPHA = "LA;16B"  # as one number of 32 bits: grey, then alpha
_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284  # TIFF tags
_SEPARATE = 2

_BRIGHTEST = 0.999  # quantile that must be within white; a few hot pixels may be above it
_SAMPLES = 1_000_000  # at most, for that quantile
_STRIP_ROWS = 256


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
    white = white_level(np.concatenate([_colours(strip(box)).reshape(-1)[::step] for box in boxes]))
    transparent = image.info.get("transparency")
    pixels = np.empty((height, width, 3), np.uint8)
    for box in boxes:
        samples = strip(box)
        colours = _colours(samples)
        values = np.clip(np.nan_to_num(colours.astype(np.float64)), 0, white) * (255 / white)
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
