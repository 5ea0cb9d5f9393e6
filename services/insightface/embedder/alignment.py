"""Cut aligned face crops out of images by their landmarks, and measure their blur, light and occlusion."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]
Points = npt.NDArray[np.float32]

# Positions of the five landmarks in ArcFace's training crops of 112 pixels (arXiv 1801.07698; the values
# are those of insightface.utils.face_align.arcface_dst).
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)

SIZE = 112  # pixels of the aligned crop, ArcFace's
COVER_MODEL = Path(__file__).parent / "covers.safetensors"

_WHITE = 250  # of 255
_CELLS = 7  # per side; a cell has 16 x 16 pixels
_TURNS = np.arange(4) * (np.pi / 4)
_DIRECTIONS = np.stack([np.cos(_TURNS), np.sin(_TURNS)]).astype(np.float32)


def template(size: int, zoom: float, down: float = 0.0) -> Points:
    """Return the landmarks' target positions [5, 2] in a square crop of `size` pixels.

    zoom : 1 is ArcFace's crop; a smaller value shows more around the face.
    down : share of the crop by which the face is moved down, which shows more of the hair.
    """
    centred = (ARCFACE_TEMPLATE - 56) * zoom + 56
    centred[:, 1] += down * 112
    return np.asarray(centred * (size / 112), dtype=np.float32)


def similarity(source: Points, target: Points) -> npt.NDArray[np.float32]:
    """Return rotation, scale and translation [2, 3] that best map source to target [n, 2] (least squares).

    Umeyama 1991, doi:10.1109/34.88573, without reflection, written with complex numbers.
    """
    a = source[:, 0] + 1j * source[:, 1]
    b = target[:, 0] + 1j * target[:, 1]
    a_mean, b_mean = a.mean(), b.mean()
    factor = np.vdot(a - a_mean, b - b_mean) / max(float(np.vdot(a - a_mean, a - a_mean).real), 1e-12)
    shift = b_mean - factor * a_mean
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]], dtype=np.float32
    )


def crop(image: Image, matrix: npt.NDArray[np.float32], size: int) -> Image:
    """Cut out the square of `size` pixels that `matrix` maps the image to, repeating edge pixels.

    A face much larger than the crop is first shrunk by area, since bilinear sampling would alias.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:
        shrink = max(scale * 1.5, 1.0 / max(image.shape[:2]))
        corners = _corners_in_image(matrix, size, image.shape[:2])
        left, top, right, bottom = corners
        if right > left and bottom > top:
            part = image[top:bottom, left:right]
            width, height = max(1, round(part.shape[1] * shrink)), max(1, round(part.shape[0] * shrink))
            image = np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            ratio = np.array([[part.shape[1] / width, 0], [0, part.shape[0] / height]], dtype=np.float32)
            offset = matrix[:, :2] @ np.array([left, top], dtype=np.float32) + matrix[:, 2]
            matrix = np.concatenate([matrix[:, :2] @ ratio, offset[:, None]], axis=1)
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        dtype=np.uint8,
    )


def _corners_in_image(
    matrix: npt.NDArray[np.float32], size: int, shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part of the image that the crop shows."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]], np.float32) @ inverse.T
    low, high = np.floor(corners.min(axis=0)) - 2, np.ceil(corners.max(axis=0)) + 2
    return (
        int(np.clip(low[0], 0, shape[1])),
        int(np.clip(low[1], 0, shape[0])),
        int(np.clip(high[0], 0, shape[1])),
        int(np.clip(high[1], 0, shape[0])),
    )


def sharpness(aligned: Image) -> float:
    """Return the variance of the Laplacian of an aligned 112-pixel RGB crop; low means blurred.

    Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548.
    """
    grey = cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


@dataclass(frozen=True)
class Measures:
    """Quality measures of one face.

    sharpness : variance of the Laplacian of the grey crop; low means blurred.
    brightness : 95th percentile of the luminance, 0 to 255. Highlights and the white of the eyes show on skin
        of every tone, so it is low in poor light only.
    clipped : share of white pixels.
    covered : probability that something hides a part of the face (see `cover_features`).
    """

    sharpness: float
    brightness: float
    clipped: float
    covered: float

    def rounded(self) -> dict[str, float]:
        """Return the measures by name, rounded to their significant digits."""
        return {
            "sharpness": round(self.sharpness, 2),
            "brightness": round(self.brightness, 1),
            "clipped": round(self.clipped, 3),
            "covered": round(self.covered, 3),
        }


def measure(aligned: Image) -> Measures:
    """Measure one aligned RGB crop [112, 112, 3]."""
    grey = np.asarray(cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY), np.uint8)
    counts = np.bincount(grey.ravel(), minlength=256)
    return Measures(
        sharpness=sharpness(aligned),
        brightness=float(np.searchsorted(np.cumsum(counts), 0.95 * grey.size)),
        clipped=float(counts[_WHITE:].sum() / grey.size),
        covered=_cover_model().probability(cover_features(aligned)),
    )


def cover_features(aligned: Image) -> Array:
    """Return edges and colours of 7 x 7 cells of an aligned RGB crop [112, 112, 3], as one vector [784].

    All values are relative to the crop's own median, so that light and skin tone matter little.
    """
    lab = cv2.cvtColor(aligned, cv2.COLOR_RGB2LAB).astype(np.float32)
    light = np.ascontiguousarray(lab[..., 0])
    gradient = np.stack([cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)], axis=-1)
    along = gradient.reshape(-1, 2) @ _DIRECTIONS
    towards = np.maximum(np.concatenate([along, -along], axis=1), 0).reshape(SIZE, SIZE, 8)
    edges, mean, square = (_cells(values) for values in (towards, lab, lab * lab))
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    colour = mean - np.median(mean.reshape(-1, 3), axis=0)
    colour[..., 0] /= max(12.0, float(mean[..., 0].std()))
    colour[..., 1:] /= 10
    parts = [
        np.sqrt(edges / (np.median(edges.sum(axis=-1)) + 8)),
        colour,
        np.abs(colour[..., 1:]),
        np.log(spread[..., 0] + 2) - np.log(np.median(spread[..., 0]) + 2),
        np.log(spread[..., 1:] + 1),
    ]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)


def _cells(values: Array) -> Array:
    """Return the mean of each cell."""
    return np.asarray(cv2.resize(values, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA), np.float32)


@dataclass(frozen=True)
class CoverModel:
    """A network with one hidden layer on standardised `cover_features`, fitted by `tools.fit_covers`.

    mean, scale [784]; hidden [784, units], hidden_bias [units]; output [units, 1], output_bias [1].
    """

    mean: Array
    scale: Array
    hidden: Array
    hidden_bias: Array
    output: Array
    output_bias: Array

    def probability(self, features: Array) -> float:
        """Return the probability that a part of the face is covered, for features [784]."""
        units = np.maximum((features - self.mean) / self.scale @ self.hidden + self.hidden_bias, 0)
        logit = float((units @ self.output + self.output_bias)[0])
        return 1 / (1 + float(np.exp(-np.clip(logit, -50, 50))))


@cache
def _cover_model() -> CoverModel:
    return CoverModel(**load_file(COVER_MODEL))
