"""Measure blur, light and occlusion of an aligned face."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from embedder.alignment import sharpness

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]

SIZE = 112  # pixels of the aligned crop, ArcFace's
COVER_MODEL = Path(__file__).parent / "covers.safetensors"

_WHITE = 250  # of 255
_CELLS = 7  # per side; a cell has 16 x 16 pixels
_TURNS = np.arange(4) * (np.pi / 4)
_DIRECTIONS = np.stack([np.cos(_TURNS), np.sin(_TURNS)]).astype(np.float32)


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
