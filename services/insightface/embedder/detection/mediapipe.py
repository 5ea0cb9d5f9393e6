"""MediaPipe's face models: BlazeFace finds faces, the face mesh places their landmarks.

BlazeFace (arXiv 1907.05047), back-camera model: 256x256 pixels, 896 anchors, six key points. Anchors and
decoding follow MediaPipe's `face_detection_back` graph: a 16x16 grid of two anchors and an 8x8 grid of six,
of unit size, so that an output is an offset in pixels from its cell's centre.

Face mesh (arXiv 1907.06724): 468 points on a crop of 192 pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from embedder.alignment import crop, similarity
from embedder.detection.yunet import overlap
from embedder.sessions import Network

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]

BLAZEFACE_INPUT = 256
_MARGIN = 0.1  # of the long side around the image; a face that fills the image is missed without it
_TILE = 0.55  # of the long side
_TILED_FROM = 400  # pixels; in a smaller image tiles would only enlarge
_SMALLER_TILES_FROM = 1600
_SAME_FACE = 0.3  # intersection over the smaller area

MESH_INPUT = 192
_CROP_MARGIN = 1.5  # the crop's side over the detection's, as in MediaPipe's face_landmark graph
_CROPS_AT_ONCE = 64  # those of a crowd of thousands would take more than a gigabyte
_RIGHT_EYE, _LEFT_EYE = (33, 133), (362, 263)  # corners; the subject's right eye is left in the image
_NOSE, _MOUTH_RIGHT, _MOUTH_LEFT = 4, 61, 291


@dataclass(frozen=True)
class Detection:
    """bbox [4] x1, y1, x2, y2 and key points [6, 2] (eyes, nose, mouth, ears) in pixels, score 0 to 1."""

    bbox: Array
    points: Array
    score: float


@dataclass(frozen=True)
class _Window:
    """A square part of the image, which may reach beyond it."""

    left: float
    top: float
    side: float


@dataclass(frozen=True)
class WindowOutput:
    """Scores [896] and offsets [896, 16] of the anchors in one window."""

    window: _Window
    scores: Array
    values: Array


class BlazeFace:
    """Find faces in an image and, if it is large, in overlapping parts of it."""

    def __init__(self, model: Path, threads: int) -> None:
        outputs = ["scores_16", "scores_8", "boxes_16", "boxes_8"]
        self._network = Network(model, threads, outputs)
        self._anchors = _anchors()

    def detect(self, image: Image, min_score: float) -> list[Detection]:
        """Return the faces of an RGB image [height, width, 3], best first."""
        return self.decode(self.run(image), min_score)

    def run(self, image: Image) -> list[WindowOutput]:
        """Return the network's raw outputs, one per window."""
        windows = _windows(image.shape[1], image.shape[0])
        inputs = np.stack([_pixels(image, window) for window in windows])
        scores_16, scores_8, boxes_16, boxes_8 = self._network(inputs)
        logits = np.concatenate([scores_16, scores_8], axis=1)[..., 0]
        scores = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
        values = np.concatenate([boxes_16, boxes_8], axis=1)
        return [WindowOutput(*output) for output in zip(windows, scores, values, strict=True)]

    def decode(self, outputs: list[WindowOutput], min_score: float) -> list[Detection]:
        """Return the faces with at least this score, best first, each once."""
        found: list[Detection] = []
        for output in outputs:
            keep = output.scores >= min_score
            found += _decode(output.window, output.scores[keep], output.values[keep], self._anchors[keep])
        return _suppress(found)


def _anchors() -> Array:
    """Return the anchors' centres [896, 2] in pixels of the network's input."""
    parts = []
    for cells, repeats in ((16, 2), (8, 6)):
        centres = (np.arange(cells) + 0.5) * (BLAZEFACE_INPUT / cells)
        grid = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 1, 2)
        parts.append(np.broadcast_to(grid, (cells * cells, repeats, 2)).reshape(-1, 2))
    return np.concatenate(parts).astype(np.float32)


def _windows(width: int, height: int) -> list[_Window]:
    long_side = max(width, height)
    side = long_side * (1 + 2 * _MARGIN)
    windows = [_Window((width - side) / 2, (height - side) / 2, side)]
    if long_side > _TILED_FROM:
        windows += _tiles(width, height, long_side * _TILE)
    if long_side > _SMALLER_TILES_FROM:
        windows += _tiles(width, height, long_side * _TILE / 2)
    return windows


def _tiles(width: int, height: int, side: float) -> list[_Window]:
    """Return squares that cover the image; neighbours overlap by a fifth or more."""

    def starts(length: int) -> npt.NDArray[np.float64]:
        count = max(1, int(np.ceil((length - 0.2 * side) / (0.8 * side))))
        return np.linspace(0, max(length - side, 0), count)

    return [_Window(float(left), float(top), side) for top in starts(height) for left in starts(width)]


def _pixels(image: Image, window: _Window) -> Array:
    """Return the window as network input: 256x256 RGB from -1 to 1, black beyond the image."""
    height, width = image.shape[:2]
    left, top = max(0, int(window.left)), max(0, int(window.top))
    right = min(width, int(np.ceil(window.left + window.side)))
    bottom = min(height, int(np.ceil(window.top + window.side)))
    scale = BLAZEFACE_INPUT / window.side
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    part = cv2.resize(image[top:bottom, left:right], size, interpolation=method)
    canvas = np.zeros((BLAZEFACE_INPUT, BLAZEFACE_INPUT, 3), dtype=np.uint8)
    x = max(0, round((left - window.left) * scale))
    y = max(0, round((top - window.top) * scale))
    part = part[: BLAZEFACE_INPUT - y, : BLAZEFACE_INPUT - x]
    canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
    return np.asarray(canvas.astype(np.float32) / 127.5 - 1)


def _decode(window: _Window, scores: Array, values: Array, anchors: Array) -> list[Detection]:
    scale = window.side / BLAZEFACE_INPUT
    origin = np.array([window.left, window.top], dtype=np.float32)
    centres = (values[:, 0:2] + anchors) * scale + origin
    halves = values[:, 2:4] * (scale / 2)
    points = (values[:, 4:16].reshape(-1, 6, 2) + anchors[:, None]) * scale + origin
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    return [
        Detection(box, face_points, float(score))
        for box, face_points, score in zip(boxes, points, scores, strict=True)
    ]


def _suppress(found: list[Detection]) -> list[Detection]:
    """Keep the best of overlapping detections (greedy non-maximum suppression)."""
    found = sorted(found, key=lambda detection: -detection.score)[:2000]
    kept: list[Detection] = []
    boxes = np.array([detection.bbox for detection in found], dtype=np.float32).reshape(-1, 4)
    alive = np.ones(len(found), dtype=bool)
    for index in range(len(found)):
        if alive[index]:
            kept.append(found[index])
            alive &= overlap(boxes[index], boxes) < _SAME_FACE
    return kept


class FaceMesh:
    """Place landmarks on detected faces."""

    def __init__(self, model: Path, threads: int) -> None:
        self._network = Network(model, threads, ["mesh", "presence"])

    def refine(self, image: Image, detections: list[Detection]) -> tuple[Array, Array, Array]:
        """Return the meshes' bounding boxes [n, 4], landmarks [n, 5, 2], and face presence [n], 0 to 1."""
        if not detections:
            return np.empty((0, 4), np.float32), np.empty((0, 5, 2), np.float32), np.empty(0, np.float32)
        matrices = [_upright_crop(detection) for detection in detections]
        parts = [
            self._network(_cut_crops(image, matrices[start : start + _CROPS_AT_ONCE]))
            for start in range(0, len(matrices), _CROPS_AT_ONCE)
        ]
        mesh, presence = (np.concatenate(column) for column in zip(*parts, strict=True))
        points = np.stack(
            [
                _to_image(matrix, mesh_points[:, :2])
                for matrix, mesh_points in zip(matrices, mesh.reshape(-1, 468, 3), strict=True)
            ]
        )
        boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        landmarks = np.stack(
            [
                points[:, _RIGHT_EYE].mean(axis=1),
                points[:, _LEFT_EYE].mean(axis=1),
                points[:, _NOSE],
                points[:, _MOUTH_RIGHT],
                points[:, _MOUTH_LEFT],
            ],
            axis=1,
        )
        return boxes, landmarks, presence.reshape(-1)


def _cut_crops(image: Image, matrices: list[Array]) -> Array:
    """Return network inputs [n, 192, 192, 3], colours from 0 to 1."""
    crops = np.stack([crop(image, matrix, MESH_INPUT) for matrix in matrices]).astype(np.float32)
    crops /= 255
    return crops


def _upright_crop(detection: Detection) -> Array:
    """Return the matrix [2, 3] that maps the image to a crop in which the eyes are level."""
    centre = (detection.bbox[:2] + detection.bbox[2:]) / 2
    half = float((detection.bbox[2:] - detection.bbox[:2]).max()) * _CROP_MARGIN / 2
    across = detection.points[1] - detection.points[0]
    across = across / max(float(np.hypot(*across)), 1e-6)
    down = np.array([-across[1], across[0]], dtype=np.float32)
    source = np.stack([centre, centre + half * across, centre + half * down]).astype(np.float32)
    target = np.array([[0.5, 0.5], [1.0, 0.5], [0.5, 1.0]], dtype=np.float32) * MESH_INPUT
    return similarity(source, target)


def _to_image(matrix: Array, points: Array) -> Array:
    linear = np.linalg.inv(matrix[:, :2])
    return np.asarray((points - matrix[:, 2]) @ linear.T, dtype=np.float32)
