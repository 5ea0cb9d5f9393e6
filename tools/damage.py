"""Damage labelled crops in the coordinates of the face: cut, covered, dark, overexposed, tight.

Each function takes an RGB image, the five landmarks of its face and a generator of random numbers, and
returns a damaged copy. Covers are drawn in the aligned crop's coordinates (112 units, `embedder.alignment`),
so that they lie on the same part of every face.
"""

import hashlib
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from embedder.alignment import ARCFACE_TEMPLATE, similarity

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]
Damage = Callable[[Image, Points, np.random.Generator], Image]

_MARGIN, _SCALE = 56, 2  # units that a layer shows around the aligned crop; pixels per unit
_SIDE = (112 + 2 * _MARGIN) * _SCALE


def _cut(removed: str) -> Damage:
    """Keep the part above the mouth, below the middle of the eyes, or on one side of an eye."""

    def damage(image: Image, landmarks: Points, draws: np.random.Generator) -> Image:
        left, right, nose, mouth_left, mouth_right = landmarks
        height, width = image.shape[:2]
        if removed == "lower":
            return image[: max(8, int((nose[1] + (mouth_left[1] + mouth_right[1]) / 2) / 2))]
        if removed == "upper":
            return image[min(height - 8, max(0, int((left[1] + right[1]) / 2))) :]
        if draws.random() < 0.5:
            return image[:, min(width - 8, max(0, int(left[0]))) :]
        return image[:, : max(8, int(right[0]))]

    return damage


def _cover(draw: Callable[[Image, Image, Image, Points, np.random.Generator], None]) -> Damage:
    def damage(image: Image, landmarks: Points, draws: np.random.Generator) -> Image:
        layer, alpha = np.zeros((_SIDE, _SIDE, 3), np.uint8), np.zeros((_SIDE, _SIDE), np.uint8)
        draw(layer, alpha, image, landmarks, draws)
        matrix = similarity((ARCFACE_TEMPLATE + _MARGIN) * _SCALE, landmarks)
        size = (image.shape[1], image.shape[0])
        over = cv2.warpAffine(layer, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        share = cv2.warpAffine(alpha, matrix, size, flags=cv2.INTER_AREA)[..., None].astype(np.float32) / 255
        return np.asarray(np.round(image * (1 - share) + over * share), np.uint8)

    return damage


def _units(*points: tuple[float, float]) -> npt.NDArray[np.int32]:
    return np.round((np.array(points, np.float32) + _MARGIN) * _SCALE).astype(np.int32)


def _box(
    left: float, top: float, right: float, bottom: float, texture: str
) -> Callable[[Image, Image, Image, Points, np.random.Generator], None]:
    def draw(layer: Image, alpha: Image, image: Image, landmarks: Points, draws: np.random.Generator) -> None:
        layer[:] = _surface(texture, image, landmarks, draws)
        move = draws.uniform(-3, 3, 2)
        corners = _units((left + move[0], top + move[1]), (right + move[0], bottom + move[1]))
        cv2.rectangle(alpha, corners[0].tolist(), corners[1].tolist(), 255, -1)

    return draw


def _surface(texture: str, image: Image, landmarks: Points, draws: np.random.Generator) -> Image:
    """Return a layer [_SIDE, _SIDE, 3] of one colour, of cloth, or of the skin of this face."""
    if texture == "plain":
        return np.asarray(np.broadcast_to(draws.integers(0, 256, 3), (_SIDE, _SIDE, 3)), np.uint8)
    if texture == "skin":
        skin = _skin(image, landmarks) * draws.uniform(0.8, 1.1)
        rough = cv2.resize(draws.normal(0, 9, (28, 28)).astype(np.float32), (_SIDE, _SIDE))
        fine = draws.normal(0, 3, (_SIDE, _SIDE)).astype(np.float32)
        return np.asarray(np.clip(skin + (rough + fine)[..., None], 0, 255), np.uint8)
    stripes = draws.integers(3, 40)
    cloth = draws.integers(0, 256, (stripes, draws.integers(1, 12), 3)).astype(np.uint8)
    cloth = np.asarray(cv2.resize(cloth, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR))
    folds = cv2.resize(draws.normal(0, 15, (8, 8)).astype(np.float32), (_SIDE, _SIDE))[..., None]
    return np.asarray(np.clip(cloth + folds, 0, 255), np.uint8)


def _skin(image: Image, landmarks: Points) -> npt.NDArray[np.float64]:
    """Return the median colour between nose and mouth corners."""
    spots = np.stack([(landmarks[2] + landmarks[3]) / 2, (landmarks[2] + landmarks[4]) / 2]).round()
    x = np.clip(spots[:, 0], 0, image.shape[1] - 1).astype(int)
    y = np.clip(spots[:, 1], 0, image.shape[0] - 1).astype(int)
    return np.asarray(np.median(image[y, x], axis=0))


def _mask(layer: Image, alpha: Image, image: Image, landmarks: Points, draws: np.random.Generator) -> None:
    """Draw a face mask from nose to chin: light blue, white, black or patterned, with pleats."""
    colours = [(170, 200, 220), (230, 230, 235), (25, 25, 28)]
    colour = int(draws.integers(0, 4))
    if colour == 3:
        layer[:] = _surface("cloth", image, landmarks, draws)
    else:
        rows = np.arange(_SIDE)[:, None, None]
        pleats = 8 * np.sin(rows / draws.uniform(5, 12))
        shade = 14 * np.cos((np.arange(_SIDE)[None, :, None] - _SIDE / 2) / 40)
        layer[:] = np.clip(np.array(colours[colour]) + pleats + shade, 0, 255).astype(np.uint8)
    top = draws.uniform(58, 70)
    outline = _units(
        (18, top + 6), (56, top), (94, top + 6), (90, 102), (76, 122), (56, 128), (36, 122), (22, 102)
    )
    cv2.fillPoly(alpha, [outline], 255, cv2.LINE_AA)


def _sunglasses(
    layer: Image, alpha: Image, image: Image, landmarks: Points, draws: np.random.Generator
) -> None:
    layer[:] = np.clip(draws.integers(5, 60) + draws.normal(0, 6, 3), 0, 255).astype(np.uint8)
    wide, high = draws.uniform(14, 18), draws.uniform(9, 14)
    axes = (int(wide * _SCALE), int(high * _SCALE))
    for eye in _units((38.3, 53), (73.5, 53)):
        cv2.ellipse(alpha, eye.tolist(), axes, 0, 0, 360, 250, -1, cv2.LINE_AA)
        cv2.ellipse(layer, (eye - [10, 8]).tolist(), (8, 4), 0, 0, 360, (90, 90, 95), -1, cv2.LINE_AA)
    ends = _units((14, 47), (98, 47))
    cv2.line(alpha, ends[0].tolist(), ends[1].tolist(), 250, 3 * _SCALE, cv2.LINE_AA)


def _hand(at: str) -> Callable[[Image, Image, Image, Points, np.random.Generator], None]:
    """Draw a palm and four fingers in the face's skin colour, over the mouth or over one eye and cheek."""

    def draw(layer: Image, alpha: Image, image: Image, landmarks: Points, draws: np.random.Generator) -> None:
        layer[:] = _surface("skin", image, landmarks, draws)
        right = draws.random() < 0.5
        if at == "mouth":
            palm, tips, along = (56, 112), [(36, 80), (48, 76), (60, 76), (72, 80)], (22, 18)
        else:
            x = 84 if right else 28
            palm, tips, along = (x, 88), [(x - 18, 46), (x - 6, 40), (x + 6, 40), (x + 18, 46)], (24, 24)
        points = _units(palm, *tips)
        cv2.ellipse(alpha, points[0].tolist(), (along[0] * _SCALE, along[1] * _SCALE), 0, 0, 360, 255, -1)
        dark = np.asarray(layer.mean(axis=(0, 1)) * 0.6)
        for tip in points[1:]:
            ends = points[0].tolist(), tip.tolist()
            cv2.line(alpha, *ends, 255, 11 * _SCALE, cv2.LINE_AA)
        for tip in points[1:]:
            edge = [int(tip[0] + 6 * _SCALE), int(tip[1])]
            cv2.line(layer, [points[0][0] + 6 * _SCALE, points[0][1]], edge, dark.tolist(), 3, cv2.LINE_AA)

    return draw


def _side(layer: Image, alpha: Image, image: Image, landmarks: Points, draws: np.random.Generator) -> None:
    """Cover one half of the face, as a door or another head would."""
    layer[:] = _surface(str(draws.choice(["plain", "cloth"])), image, landmarks, draws)
    corners = _units((-40, -40), (54, 152)) if draws.random() < 0.5 else _units((58, -40), (152, 152))
    cv2.rectangle(alpha, corners[0].tolist(), corners[1].tolist(), 255, -1)


def _exposed(gain: float) -> Damage:
    """Multiply the brightness by `gain`, add sensor noise, and clip at white."""

    def damage(image: Image, landmarks: Points, draws: np.random.Generator) -> Image:
        noise = draws.normal(0, 1.5, image.shape)
        return np.asarray(np.clip(np.round(image.astype(np.float32) * gain + noise), 0, 255), np.uint8)

    return damage


def _tight(share: float) -> Damage:
    """Keep the middle of the image."""

    def damage(image: Image, landmarks: Points, draws: np.random.Generator) -> Image:
        height, width = (round(side * share) for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return image[top : top + height, left : left + width]

    return damage


# Name → expected quality reason, and the function.
DAMAGE: dict[str, tuple[str, Damage]] = {
    "cut above the mouth": ("cut", _cut("lower")),
    "cut at the eyes": ("cut", _cut("upper")),
    "cut at one eye": ("cut", _cut("side")),
    "box on the mouth": ("covered", _cover(_box(30, 78, 82, 108, "plain"))),
    "box on the lower half": ("covered", _cover(_box(4, 64, 108, 140, "plain"))),
    "cloth on the lower half": ("covered", _cover(_box(4, 64, 108, 140, "cloth"))),
    "face mask": ("covered", _cover(_mask)),
    "bar on the eyes": ("covered", _cover(_box(16, 40, 96, 64, "plain"))),
    "sunglasses": ("covered", _cover(_sunglasses)),
    "hand on the mouth": ("covered", _cover(_hand("mouth"))),
    "hand on one eye": ("covered", _cover(_hand("eye"))),
    "one side covered": ("covered", _cover(_side)),
    "a quarter of the light": ("dark", _exposed(0.25)),
    "an eighth of the light": ("dark", _exposed(0.125)),
    "a sixteenth of the light": ("dark", _exposed(0.0625)),
    "twice the light": ("overexposed", _exposed(2)),
    "three times the light": ("overexposed", _exposed(3)),
    "five times the light": ("overexposed", _exposed(5)),
    "the middle 70 %": ("tight", _tight(0.7)),
    "the middle 60 %": ("tight", _tight(0.6)),
    "the middle 50 %": ("tight", _tight(0.5)),
}


def damaged(image: Image, landmarks: Points, name: str, file: str) -> Image:
    """Return the image with one damage of `DAMAGE`; the random numbers depend on the file's name only."""
    seed = int(hashlib.sha256(file.encode()).hexdigest()[:8], 16)
    draws = np.random.default_rng([seed, list(DAMAGE).index(name)])
    return np.ascontiguousarray(DAMAGE[name][1](image, landmarks, draws))
