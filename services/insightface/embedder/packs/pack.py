"""What a pack is: a detector and one or more embedders whose outputs stand side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from agegender.faces import Face, FaceSelection
from agegender.spaces import Space

from embedder.alignment import crop, sharpness, similarity, template

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """bbox [n, 4], score [n], landmarks [n, 5, 2]; pixels of the image.

    found : faces that there were before a selection; truncated : whether a limit left some out.
    """

    bbox: Array
    score: Array
    landmarks: Array
    found: int = 0
    truncated: bool = False

    def selected(self, selection: FaceSelection, limit: int) -> "Detections":
        """Return the first `limit` that the selection accepts, or fewer if it wants fewer."""
        passing = [
            index
            for index, (bbox, score) in enumerate(zip(self.bbox, self.score, strict=True))
            if selection.accepts(_rounded(bbox), round(float(score), 4))
        ]
        kept = passing[: min(limit, selection.max_faces or limit)]
        truncated = len(kept) < len(passing)
        return Detections(
            self.bbox[kept],
            self.score[kept],
            self.landmarks[kept],
            found=len(self.score),
            truncated=truncated,
        )

    def portions(self, size: int) -> Iterator["Detections"]:
        """In their order, so many at once; none where there are none."""
        for start in range(0, len(self.score), size):
            part = slice(start, start + size)
            yield Detections(self.bbox[part], self.score[part], self.landmarks[part])


class Detector(Protocol):
    def detect(self, image: Image) -> Detections: ...


class Embedder(Protocol):
    """Embeds aligned crops; `size`, `zoom` and `down` say which (see `alignment.template`)."""

    @property
    def size(self) -> int: ...
    @property
    def zoom(self) -> float: ...
    @property
    def down(self) -> float: ...

    def embed(self, crops: Image) -> Array:
        """Features [n, d] of RGB crops [n, size, size, 3]; of any length."""


class Pack:
    """detect → five landmarks → align → embed, the faces of all pictures of a call in one batch.

    The embedding is the embedders' unit vectors side by side, scaled to unit length again, so that each
    embedder has the same weight in a cosine.
    """

    def __init__(
        self, space: Space, models: list[str], detector: Detector, embedders: list[Embedder]
    ) -> None:
        self.space = space
        self.models = models
        self._detector = detector
        self._embedders = embedders

    def faces(self, images: list[Image]) -> list[list[Face]]:
        """The faces of each RGB picture [height, width, 3], largest first."""
        return self.embed(images, self.detect(images))

    def detect(self, images: list[Image]) -> list[Detections]:
        """Where the faces of each picture are, largest first."""
        return [_largest_first(self._detector.detect(image)) for image in images]

    def embed(self, images: list[Image], found: list[Detections]) -> list[list[Face]]:
        """What was found in each picture, with embeddings."""
        flat = [
            (image, landmarks)
            for image, detections in zip(images, found, strict=True)
            for landmarks in detections.landmarks
        ]
        embeddings = iter(self._embed(flat))
        sharp = iter(
            [sharpness(_aligned(image, landmarks, template(112, 1.0), 112)) for image, landmarks in flat]
        )
        return [
            [
                Face(
                    bbox=tuple(_rounded(bbox)),
                    det_score=round(float(score), 4),
                    landmarks=_rounded(landmarks),
                    sharpness=round(next(sharp), 2),
                    embedding=next(embeddings).tolist(),
                )
                for bbox, score, landmarks in zip(
                    detections.bbox, detections.score, detections.landmarks, strict=True
                )
            ]
            for detections in found
        ]

    def _embed(self, faces: list[tuple[Image, Array]]) -> Array:
        if not faces:
            return np.empty((0, self.space.dimension), dtype=np.float32)
        parts = []
        for embedder in self._embedders:
            places = template(embedder.size, embedder.zoom, embedder.down)
            crops = np.stack([_aligned(image, points, places, embedder.size) for image, points in faces])
            parts.append(unit(embedder.embed(crops)))
        return unit(np.concatenate(parts, axis=1))


def _aligned(image: Image, landmarks: Array, places: Array, size: int) -> Image:
    return crop(image, similarity(landmarks, places), size)


def unit(vectors: Array) -> Array:
    """Vectors [n, d] scaled to length 1."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def _rounded(pixels: Array) -> list[Any]:
    return list(np.round(pixels.astype(np.float64), 2).tolist())  # float32 has no 2.1 but 2.0999999


def _largest_first(detections: Detections) -> Detections:
    bbox = detections.bbox
    order = np.argsort(-(bbox[:, 2] - bbox[:, 0]) * (bbox[:, 3] - bbox[:, 1]), kind="stable")
    return Detections(bbox[order], detections.score[order], detections.landmarks[order])
