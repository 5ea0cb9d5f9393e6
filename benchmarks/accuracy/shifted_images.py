"""Embed faces as prints, in poor light, blurred, turned and tightly cropped, for the bench for shift."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from agegender.files import read_npz, write_npz
from agegender.images import ImageLimits, decode
from embedder.packs.pack import Pack
from PIL import Image
from predictor.quality import face_quality

from benchmarks.quality_intervals import embedded_sample

Pixels = npt.NDArray[np.uint8]
Draws = np.random.Generator
CACHE = Path(tempfile.gettempdir()) / "agegender-shift"


@dataclass(frozen=True)
class ShiftedFaces:
    """Faces of one condition; an image without a face has `found` False and zeros."""

    found: npt.NDArray[np.bool_]
    embedding: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float64]
    interval_scale: npt.NDArray[np.float64]


def _clipped(image: npt.NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(np.round(image), 0, 255), np.uint8)


def _grey(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)


def _sepia(image: Pixels, draws: Draws) -> Pixels:
    return _clipped(_grey(image) * np.array([1.07, 0.86, 0.62]))


def _faded(image: Pixels, draws: Draws) -> Pixels:
    """Halve the contrast, lift the blacks, and turn towards yellow, as colour prints age."""
    pale = 0.5 * image + 0.5 * _grey(image)
    return _clipped((105 + 0.5 * pale) * np.array([1.03, 0.98, 0.84]))


def _grain(image: Pixels, draws: Draws) -> Pixels:
    height, width = image.shape[:2]
    noise = cv2.GaussianBlur(draws.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 0.8)
    return _clipped(_grey(image) + 15 * (noise / noise.std())[..., None])


def _halftone(image: Pixels, draws: Draws) -> Pixels:
    """Print black dots on a screen of 45°, with a hundred lines on the shorter side, and scan them."""
    height, width = image.shape[:2]
    fine = cv2.resize(_grey(image)[..., 0], (4 * width, 4 * height), interpolation=cv2.INTER_CUBIC)
    pitch = 4 * max(2.0, min(height, width) / 100)
    y, x = np.mgrid[: 4 * height, : 4 * width] * (np.pi / pitch)
    screen = 127.5 + 63.75 * (np.cos(x + y) + np.cos(x - y))
    dots = cv2.GaussianBlur(np.where(fine > screen, 245, 25).astype(np.uint8), (0, 0), pitch / 6)
    scanned = cv2.resize(dots, (width, height), interpolation=cv2.INTER_AREA)
    return np.repeat(np.asarray(scanned, np.uint8)[..., None], 3, axis=2)


def _rescanned(image: Pixels, draws: Draws) -> Pixels:
    """Print at 64 pixels on the longer side, and scan the print with the texture of its paper."""
    height, width = image.shape[:2]
    scale = 64 / max(height, width)
    small = (max(8, round(width * scale)), max(8, round(height * scale)))
    printed = cv2.resize(_grey(image), small, interpolation=cv2.INTER_AREA)
    printed = cv2.resize(printed, (width, height), interpolation=cv2.INTER_CUBIC)
    paper = cv2.GaussianBlur(draws.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 1.5)
    return _clipped(25 + 0.82 * printed + 6 * (paper / paper.std())[..., None])


def _jpeg(image: Pixels, draws: Draws) -> Pixels:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=20)
    with Image.open(file) as reopened:
        return np.asarray(reopened.convert("RGB"))


def _dim(image: Pixels, draws: Draws) -> Pixels:
    return _clipped(0.25 * image + draws.normal(0, 1.5, image.shape))


def _blurred(image: Pixels, draws: Draws) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), min(image.shape[:2]) / 66), np.uint8)


def _tilted(image: Pixels, draws: Draws) -> Pixels:
    angle = 35 if draws.random() < 0.5 else -35
    photo = Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return np.asarray(photo)


def _in_profile(image: Pixels, draws: Draws) -> Pixels:
    """Turn the head by 40° as if the image lay on an upright cylinder as wide as two thirds of it."""
    height, width = image.shape[:2]
    radius, turn = width / 3, np.radians(40 if draws.random() < 0.5 else -40)
    across = (np.arange(width) - width / 2) / radius
    inside = np.abs(across) < 1
    angle = np.arcsin(np.clip(across, -1, 1)) - turn
    source = np.where(inside, np.sin(np.clip(angle, -np.pi / 2, np.pi / 2)), across) * radius + width / 2
    x = np.broadcast_to(source.astype(np.float32), (height, width))
    y = np.broadcast_to(np.arange(height, dtype=np.float32)[:, None], (height, width))
    turned = cv2.remap(image, x.copy(), y.copy(), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8)


def _tight(image: Pixels, draws: Draws) -> Pixels:
    height, width = image.shape[:2]
    top, left = round(0.2 * height), round(0.2 * width)
    return image[top : height - top, left : width - left]


CONDITIONS: dict[str, Callable[[Pixels, Draws], Pixels]] = {
    "as they are": lambda image, draws: image,
    "greyscale": lambda image, draws: _grey(image),
    "sepia": _sepia,
    "faded": _faded,
    "grain": _grain,
    "halftone": _halftone,
    "rescanned small": _rescanned,
    "JPEG quality 20": _jpeg,
    "a quarter of the light": _dim,
    "blurred": _blurred,
    "tilted by 35°": _tilted,
    "turned by 40° (on a cylinder)": _in_profile,
    "the middle 60 %": _tight,
}


def shifted_faces(pack: Pack, data_dir: Path, files: Sequence[str], condition: str) -> ShiftedFaces:
    """Embed the largest face of each image in a condition, or read it from the temporary cache."""
    key = hashlib.sha256("\n".join([pack.space.id, condition, *files]).encode()).hexdigest()[:20]
    path = CACHE / f"{pack.space.id}-{key}.npz"
    if not path.exists():
        arrays = [_shifted_face(pack, data_dir, file, condition) for file in files]
        columns = [np.array(column) for column in zip(*arrays, strict=True)]
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_npz(path, dict(zip(ShiftedFaces.__dataclass_fields__, columns, strict=True)))
    return ShiftedFaces(**read_npz(path))


def _shifted_face(
    pack: Pack, data_dir: Path, file: str, condition: str
) -> tuple[bool, npt.NDArray[np.float32], float, float]:
    seed = int(hashlib.sha256(Path(file).name.encode()).hexdigest()[:8], 16)
    draws = np.random.default_rng([seed, list(CONDITIONS).index(condition)])
    image = decode((data_dir / file).read_bytes(), ImageLimits())
    changed = np.ascontiguousarray(CONDITIONS[condition](image, draws))
    sample = embedded_sample(pack, changed, file, 0, condition)
    if sample.face is None:
        return False, np.zeros(pack.space.dimension, np.float32), 0.0, 1.0
    quality = face_quality(sample.face, sample.size)
    return True, np.array(sample.face.embedding, np.float32), quality.score, quality.interval_scale
