"""A pack: one detector, and one or more embedders whose outputs are concatenated."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from agegender.faces import Face, plausible, turned_points
from agegender.spaces import Space

from embedder.alignment import SIZE, crop, measure, similarity, template
from embedder.detection.search import Detections, Detector, search

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]

# Landmarks of a face in a box that ends at its forehead, chin and cheeks, in heights of the box and relative
# to the middle of its upper side: the means of both packs' detectors, made symmetric, on 240 development
# crops of UTKFace and All-Age-Faces, and the mean width of their boxes (human 0.87, buffalo_sc 0.80).
_TYPICAL = np.array([[-0.189, 0.34], [0.189, 0.34], [0, 0.549], [-0.163, 0.728], [0.163, 0.728]], np.float32)
_TYPICAL_WIDTH = 0.83


class BadPack(RuntimeError):
    """A pack is missing, incomplete or damaged; the message states what to do.

    Loading it again would fail in the same way.
    """


class Embedder(Protocol):
    """Embed aligned crops of the geometry `size`, `zoom` and `down` (see `alignment.template`)."""

    @property
    def size(self) -> int: ...
    @property
    def zoom(self) -> float: ...
    @property
    def down(self) -> float: ...

    def embed(self, crops: Image) -> Array:
        """Return features [n, d], of any norm, for RGB crops [n, size, size, 3]."""


class MirroredEmbedder:
    """Embed each crop and its mirror image, so that both have the same embedding, at twice the cost.

    The result is the sum of the two unit vectors; `Pack` scales it to unit length.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.size = embedder.size
        self.zoom = embedder.zoom
        self.down = embedder.down

    def embed(self, crops: Image) -> Array:
        vectors = unit(self._embedder.embed(np.concatenate([crops, crops[:, :, ::-1]])))
        return vectors[: len(crops)] + vectors[len(crops) :]


class Pack:
    """Detect faces, place five landmarks, align and embed; all faces of one call are one batch.

    The embedding is the concatenation of the embedders' unit vectors, scaled to unit length again, so that
    each embedder has the same weight in a cosine.

    Parameters
    ----------
    space : of the embeddings.
    models : names of the networks, for `GET /info`.
    place : returns the landmarks [5, 2] of an image that is one face, right or not; None for none.
    """

    def __init__(
        self,
        space: Space,
        models: list[str],
        detector: Detector,
        embedders: list[Embedder],
        place: Callable[[Image], Array | None] = lambda image: None,
    ) -> None:
        self.space = space
        self.models = models
        self._detector = detector
        self._embedders = embedders
        self._place = place

    def faces(self, images: list[Image]) -> list[list[Face]]:
        """Return the faces of each RGB image [height, width, 3], largest first."""
        return self.embed(images, self.detect(images))

    def detect(self, images: list[Image], awaited: Callable[[], bool] = lambda: True) -> list[Detections]:
        """Return the detections in each image, largest first.

        awaited : see `embedder.detection.search.search`.
        """
        return [_largest_first(search(self._detector, image, awaited)) for image in images]

    def whole(self, image: Image, found: Detections) -> Detections:
        """Return the image as one face, with the landmarks of the largest face that was found in it.

        Without any, they are those that the pack places on it, if they are plausible, or typical ones.
        """
        height, width = image.shape[:2]
        box = np.array([[0, 0, width, height]], dtype=np.float32)
        if len(found.score):
            return replace(found.rows(slice(1)), bbox=box, whole=True, found=len(found.score))
        landmarks = self._place(image)
        if landmarks is None or not plausible(landmarks.tolist(), box[0].tolist()):
            landmarks = typical_landmarks(width, height)
        return Detections(box, np.zeros(1, np.float32), landmarks[None], whole=True)

    def embed(self, images: list[Image], found: list[Detections]) -> list[list[Face]]:
        """Return the detected faces of each image with measures and embeddings."""
        flat = [
            (upright, landmarks)
            for image, detections in zip(images, found, strict=True)
            for upright, landmarks in _upright(image, detections)
        ]
        crops = _Crops(flat)
        embeddings = iter(self._embed(crops))
        measured = iter([measure(aligned) for aligned in crops.cut(SIZE, 1.0, 0.0)])
        return [
            [
                Face(
                    bbox=tuple(_rounded(bbox)),
                    det_score=round(float(score), 4),
                    landmarks=_rounded(landmarks),
                    border=detections.border,
                    whole=detections.whole,
                    **next(measured).rounded(),
                    embedding=next(embeddings).tolist(),
                )
                for bbox, score, landmarks in zip(
                    detections.bbox, detections.score, detections.landmarks, strict=True
                )
            ]
            for detections in found
        ]

    def _embed(self, crops: "_Crops") -> Array:
        if not len(crops):
            return np.empty((0, self.space.dimension), np.float32)
        parts = [
            unit(embedder.embed(crops.cut(embedder.size, embedder.zoom, embedder.down)))
            for embedder in self._embedders
        ]
        return unit(np.concatenate(parts, axis=1))


class _Crops:
    """Aligned crops of faces, given as upright images and landmarks; each geometry is cut out once."""

    def __init__(self, faces: list[tuple[Image, Array]]) -> None:
        self._faces = faces
        self._cut: dict[tuple[int, float, float], Image] = {}

    def __len__(self) -> int:
        return len(self._faces)

    def cut(self, size: int, zoom: float, down: float) -> Image:
        """Return the crops [n, size, size, 3] by a template (see `alignment.template`)."""
        if (size, zoom, down) not in self._cut:
            targets = template(size, zoom, down)
            crops = np.empty((len(self), size, size, 3), np.uint8)
            for number, (image, landmarks) in enumerate(self._faces):
                crops[number] = crop(image, similarity(landmarks, targets), size)
            self._cut[size, zoom, down] = crops
        return self._cut[size, zoom, down]


def typical_landmarks(width: int, height: int) -> Array:
    """Return the landmarks [5, 2] of a typical face in the middle of a crop, as large as fits."""
    size = min(height, width / _TYPICAL_WIDTH)
    return np.asarray(_TYPICAL * size + [width / 2, (height - size) / 2], dtype=np.float32)


def _upright(image: Image, found: Detections) -> list[tuple[Image, Array]]:
    """Return, per face, the image turned upright and the landmarks [5, 2] in it.

    The crops of a turned image are thus exactly those of the same image upright.
    """
    height, width = image.shape[:2]
    upright = np.ascontiguousarray(np.rot90(image, -(found.rotation // 90)))
    return [
        (upright, np.array(turned_points(points, found.rotation, width, height), np.float32))
        for points in found.landmarks.tolist()
    ]


def unit(vectors: Array) -> Array:
    """Scale vectors [n, d] to length 1."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def _rounded(pixels: Array) -> list[Any]:
    return list(np.round(pixels.astype(np.float64), 2).tolist())  # float32 has no 2.1 but 2.0999999


def _largest_first(detections: Detections) -> Detections:
    bbox = detections.bbox
    order = np.argsort(-(bbox[:, 2] - bbox[:, 0]) * (bbox[:, 3] - bbox[:, 1]), kind="stable")
    return detections.rows(order)
