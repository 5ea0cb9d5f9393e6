"""Vary a face as other cameras, prints, scans and crops would, for a second embedding."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]
Draws = np.random.Generator

_UNCHANGED = 0.3  # share of the copies that are mirrored and nothing else
_MARGIN = 0.5  # of the box's longer side, shown around it
_LONG_SIDE = 400  # pixels, at most
_TURN = 20.0  # degrees, at most
_CUT = 0.15  # of the width or height, at most, on each side
_FEWEST, _MOST = 48, 128  # pixels of the long side of an image that was stored small
_SCREEN = (70, 130)  # lines of a halftone print across the shorter side
_FINE = 3  # times as fine as the image is a halftone print, before it is scanned


def varied(image: Pixels, box: Sequence[float], seed: bytes) -> Pixels:
    """Return the part of an RGB image [height, width, 3] around a face, mirrored and changed at random.

    box : of the face: left, top, right, bottom.
    seed : of the random numbers; the same arguments give the same result.
    """
    draws = np.random.default_rng(list(seed))
    margin = _MARGIN * max(box[2] - box[0], box[3] - box[1])
    left, right = _within(box[0] - margin, box[2] + margin, image.shape[1])
    top, bottom = _within(box[1] - margin, box[3] + margin, image.shape[0])
    photograph = Image.fromarray(image[top:bottom, left:right][:, ::-1].copy())
    photograph.thumbnail((_LONG_SIDE, _LONG_SIDE), Image.Resampling.BOX)
    changes = () if draws.random() < _UNCHANGED else _CHANGES
    for probability, change in changes:
        if draws.random() < probability:
            photograph = change(photograph, draws)
    return np.asarray(photograph)


def _within(first: float, last: float, length: int) -> tuple[int, int]:
    """Return a range of at least one pixel within 0 to `length`."""
    start = min(max(0, round(first)), length - 1)
    return start, max(start + 1, min(round(last), length))


def _turned(image: Image.Image, draws: Draws) -> Image.Image:
    return image.rotate(draws.uniform(-_TURN, _TURN), Image.Resampling.BICUBIC)


def _cut(image: Image.Image, draws: Draws) -> Image.Image:
    (left, top, right, bottom), (width, height) = draws.uniform(0, _CUT, 4), image.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return image.crop((round(box[0]), round(box[1]), max(1, round(box[2])), max(1, round(box[3]))))


def _stored_small(image: Image.Image, draws: Draws) -> Image.Image:
    scale = draws.uniform(_FEWEST, _MOST) / max(image.size)
    if scale >= 1:
        return image
    small = image.resize(
        (max(8, round(image.width * scale)), max(8, round(image.height * scale))), Image.Resampling.BOX
    )
    return small.resize(image.size, Image.Resampling.BICUBIC)


def _blurred(image: Image.Image, draws: Draws) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(draws.uniform(0.3, 1) * min(image.size) / 80))


def _grey(image: Image.Image, draws: Draws) -> Image.Image:
    return image.convert("L").convert("RGB")


def _yellowed(image: Image.Image, draws: Draws) -> Image.Image:
    return _as_image(
        _samples(image) * np.array([1, draws.uniform(0.8, 1), draws.uniform(0.55, 1)], np.float32)
    )


def _gamma(image: Image.Image, draws: Draws) -> Image.Image:
    return _as_image(_samples(image) ** float(np.exp(draws.uniform(-0.7, 0.7))))


def _pale(image: Image.Image, draws: Draws) -> Image.Image:
    contrast = draws.uniform(0.4, 1)
    return _as_image(_samples(image) * contrast + draws.uniform(0, 1 - contrast))


def _dim(image: Image.Image, draws: Draws) -> Image.Image:
    return _as_image(_samples(image) * draws.uniform(0.25, 1))


def _grainy(image: Image.Image, draws: Draws) -> Image.Image:
    strength = np.float32(draws.uniform(0.01, 0.07))
    grain = strength * draws.standard_normal((image.height, image.width, 1), np.float32)
    return _as_image(_samples(image) + grain)


def _halftone(image: Image.Image, draws: Draws) -> Image.Image:
    """Print black dots on a screen of 45 degrees, and scan the print."""
    width, height = image.size
    pitch = _FINE * max(2.0, min(width, height) / draws.uniform(*_SCREEN))
    fine = image.convert("L").resize((_FINE * width, _FINE * height), Image.Resampling.BICUBIC)
    x, y = (np.arange(_FINE * side, dtype=np.float32) * np.float32(np.pi / pitch) for side in (width, height))
    screen = 0.5 + 0.5 * np.cos(y)[:, None] * np.cos(x)  # cos(x + y) + cos(x - y)
    dots = np.where(np.asarray(fine) / 255 > screen, 242, 25).astype(np.uint8)
    return Image.fromarray(dots).resize((width, height), Image.Resampling.BOX).convert("RGB")


def _compressed(image: Image.Image, draws: Draws) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(draws.integers(15, 60)))
    with Image.open(file) as saved:
        return saved.convert("RGB")


_CHANGES: tuple[tuple[float, Callable[[Image.Image, Draws], Image.Image]], ...] = (
    (0.5, _turned),
    (0.4, _cut),
    (0.3, _stored_small),
    (0.2, _blurred),
    (0.35, _grey),
    (0.2, _yellowed),
    (0.4, _gamma),
    (0.3, _pale),
    (0.2, _dim),
    (0.3, _grainy),
    (0.1, _halftone),
    (0.4, _compressed),
)


def _samples(image: Image.Image) -> npt.NDArray[np.float32]:
    """Return the samples [height, width, 3], 0 to 1."""
    return np.asarray(image, np.float32) / np.float32(255)


def _as_image(samples: npt.NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(samples, 0, 1) * 255).astype(np.uint8))
