"""Five landmarks from MediaPipe's face mesh (arXiv 1907.06724): 468 points on a 192-pixel crop."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedder.alignment import crop, similarity
from embedder.detection.blazeface import Detection
from embedder.sessions import Network

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]

INPUT = 192
_MARGIN = 1.5  # the crop's side over the detection's, as in MediaPipe's face_landmark graph
_TOGETHER = 64  # crops; those of a crowd of thousands would take more than a gigabyte
_RIGHT_EYE, _LEFT_EYE = (33, 133), (362, 263)  # corners; the subject's right eye is left in the picture
_NOSE, _MOUTH_RIGHT, _MOUTH_LEFT = 4, 61, 291


class FaceMesh:
    def __init__(self, model: Path, threads: int) -> None:
        self._network = Network(model, threads, ["mesh", "presence"])

    def refine(self, image: Image, detections: list[Detection]) -> tuple[Array, Array, Array]:
        """Boxes [n, 4] about the mesh, landmarks [n, 5, 2], and the mesh's belief in a face [n], 0 to 1."""
        if not detections:
            return np.empty((0, 4), np.float32), np.empty((0, 5, 2), np.float32), np.empty(0, np.float32)
        matrices = [_upright(detection) for detection in detections]
        parts = [
            self._network(_crops(image, matrices[start : start + _TOGETHER]))
            for start in range(0, len(matrices), _TOGETHER)
        ]
        mesh, presence = (np.concatenate(column) for column in zip(*parts, strict=True))
        points = np.stack(
            [
                _to_picture(matrix, mesh_points[:, :2])
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


def _crops(image: Image, matrices: list[Array]) -> Array:
    """What the network sees, [n, 192, 192, 3], colours from 0 to 1."""
    crops = np.stack([crop(image, matrix, INPUT) for matrix in matrices]).astype(np.float32)
    crops /= 255
    return crops


def _upright(detection: Detection) -> Array:
    """Maps the picture to the crop in which the eyes are level."""
    centre = (detection.bbox[:2] + detection.bbox[2:]) / 2
    half = float((detection.bbox[2:] - detection.bbox[:2]).max()) * _MARGIN / 2
    across = detection.points[1] - detection.points[0]
    across = across / max(float(np.hypot(*across)), 1e-6)
    down = np.array([-across[1], across[0]], dtype=np.float32)
    source = np.stack([centre, centre + half * across, centre + half * down]).astype(np.float32)
    target = np.array([[0.5, 0.5], [1.0, 0.5], [0.5, 1.0]], dtype=np.float32) * INPUT
    return similarity(source, target)


def _to_picture(matrix: Array, points: Array) -> Array:
    linear = np.linalg.inv(matrix[:, :2])
    return np.asarray((points - matrix[:, 2]) @ linear.T, dtype=np.float32)
