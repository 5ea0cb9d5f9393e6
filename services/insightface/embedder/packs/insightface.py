"""InsightFace's packs: SCRFD finds faces and landmarks, ArcFace embeds.

A projection for the pack's ArcFace, if this package includes one, replaces its last layer. The weights are
for non-commercial research.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from agegender.spaces import Space
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.model_zoo.scrfd import SCRFD

from embedder.detection.search import Detections
from embedder.packs.pack import Embedder, MirroredEmbedder, Pack
from embedder.packs.projection import load_projection, projected_model
from embedder.packs.store import BadPack
from embedder.sessions import PROGRESS, Network, images_at_once, open_session

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]

# The library's default size is automatic, with which embeddings differ between its versions.
DET_SIZE = (640, 640)
DET_THRESHOLD = 0.5
# SCRFD places the landmarks of an upside-down face as if it were upright, with a score below this
# (docs/embedding.md).
_SURE = 0.75
LICENCE = "non-commercial research"
SPACE_VERSION = 5


class ScrfdDetector:
    """Find faces and landmarks with SCRFD."""

    def __init__(self, model: Path, threads: int) -> None:
        self._scrfd = SCRFD(str(model), session=open_session(model, threads), static_shape_sessions=False)
        self._scrfd.prepare(0, input_size=DET_SIZE, det_thresh=DET_THRESHOLD)

    def detect(self, image: Image) -> Detections:
        """Return faces with a score of at least `DET_THRESHOLD`; none in an image too narrow to scale."""
        if min(image.shape[:2]) * min(DET_SIZE) < max(image.shape[:2]):
            boxes, landmarks = np.empty((0, 5), np.float32), np.empty((0, 5, 2), np.float32)
        else:
            bgr = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)  # the library's order
            found = self._scrfd.detect(bgr, input_size=DET_SIZE)
            boxes, landmarks = (np.asarray(values, dtype=np.float32) for values in found)
        boxes, landmarks = boxes.reshape(-1, 5), landmarks.reshape(-1, 5, 2)
        return Detections(boxes[:, :4], boxes[:, 4], landmarks, sure=boxes[:, 4] >= _SURE)


class ArcFaceEmbedder:
    """Embed with ArcFace's own last layer."""

    size = 112
    zoom = 1.0
    down = 0.0

    def __init__(self, arcface: ArcFaceONNX) -> None:
        self._arcface = arcface

    def embed(self, crops: Image) -> Array:
        bgr = list(np.ascontiguousarray(crops[..., ::-1]))
        step = images_at_once(self._arcface.session)
        parts = []
        for start in range(0, len(bgr), step):
            parts.append(self._arcface.get_feat(bgr[start : start + step]))
            PROGRESS.step()
        return np.concatenate(parts).astype(np.float32)


class FeatureMapEmbedder:
    """Embed with inner feature maps of ArcFace; same crop and colours as `ArcFaceEmbedder`."""

    size = 112
    zoom = 1.0
    down = 0.0

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        self._network = Network(model.SerializeToString(), threads)

    def embed(self, crops: Image) -> Array:
        scaled = (crops.astype(np.float32) - 127.5) / 127.5
        return self._network(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))[0]


def recogniser_embedder(recogniser: Path, threads: int) -> Embedder:
    """Load the recogniser, with its projection if there is one (better for age and gender)."""
    projection = load_projection(recogniser.stem)
    if projection is None:
        return ArcFaceEmbedder(load_arcface(recogniser, threads))
    model = projected_model(onnx.load(recogniser), projection)
    return MirroredEmbedder(FeatureMapEmbedder(model, threads))


def load_arcface(model: Path, threads: int) -> ArcFaceONNX:
    """Load a recogniser with InsightFace's own class."""
    return ArcFaceONNX(str(model), session=open_session(model, threads))


def find_models(directory: Path) -> tuple[Path, Path]:
    """Return the files of the detection and the recognition model in a pack's folder.

    Raises `BadPack`, which lists the expected names and the files found.
    """
    files = sorted(directory.glob("*.onnx"))
    detectors = [file for file in files if file.name.startswith(("det_", "scrfd"))]
    recognisers = [
        file for file in files if file.name.startswith(("w600k", "glint", "webface", "arcface", "ms1mv"))
    ]
    if not detectors or not recognisers:
        raise BadPack(
            f"{directory} has no detection model (det_*.onnx, scrfd*.onnx) or no recognition model "
            f"(w600k_*, glintr100.onnx, …); found: {', '.join(file.name for file in files) or 'nothing'}"
        )
    return detectors[0], recognisers[0]


def insightface_pack(name: str, directory: Path, threads: int) -> Pack:
    """Load one of InsightFace's packs from its folder."""
    detector, recogniser = find_models(directory)
    return Pack(
        Space(id=f"{name}-{SPACE_VERSION}", dimension=512),
        [detector.stem, recogniser.stem],
        ScrfdDetector(detector, threads),
        [recogniser_embedder(recogniser, threads)],
    )
