"""Which of the faces found in an image is the labelled one."""

from collections.abc import Sequence

import numpy as np
from agegender.faces import Face, ImageFaces

_SAME_FACE = 0.3  # overlap (IoU) from which a box in the mirrored image is the same face


def labelled_face(image: ImageFaces) -> int:
    """Position of the largest face whose box holds the image's centre; else of the one nearest to it.

    Data sets of faces are crops around the labelled face, so it is at the centre; a detector's false find
    may be nearer to it, but is smaller.
    """
    middle = np.array([image.width, image.height]) / 2
    boxes = np.array([face.bbox for face in image.faces])
    holds = (boxes[:, :2] <= middle).all(axis=1) & (middle <= boxes[:, 2:]).all(axis=1)
    if holds.any():
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        return int(np.argmax(np.where(holds, area, -1.0)))
    return int(np.argmin(np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - middle, axis=1)))


def same_face_mirrored(face: Face, mirrored: ImageFaces) -> Face | None:
    """The face of the mirrored image that lies where `face` was, None where none does."""
    x1, y1, x2, y2 = face.bbox
    flipped = (mirrored.width - x2, y1, mirrored.width - x1, y2)
    overlaps = [_overlap(flipped, other.bbox) for other in mirrored.faces]
    if not overlaps or max(overlaps) < _SAME_FACE:
        return None
    return mirrored.faces[int(np.argmax(overlaps))]


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0.0) * max(height, 0.0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return common / (area - common) if area > common else 0.0
