"""InsightFace's packs: SCRFD finds faces and landmarks, ArcFace or a projection of its feature maps embeds.

ArcFace's last layer maps its last feature map to 512 numbers that identify people, and shrinks what people
share: age and gender. A projection, if this package includes one for the pack's ArcFace, replaces that layer:
it maps several inner feature maps to 512 numbers. It is fitted without labels (`tools.fit_projection`);
docs/embedding.md has the comparison. The weights are for non-commercial research.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from agegender.files import write_safetensors
from agegender.spaces import Space
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.model_zoo.scrfd import SCRFD
from onnx import helper, numpy_helper
from safetensors import safe_open

from embedder.detection.search import Detections
from embedder.packs.pack import BadPack, Embedder, MirroredEmbedder, Pack
from embedder.sessions import PROGRESS, Network, images_at_once, open_session

PROJECTIONS = Path(__file__).parent / "projections"
OUTPUT = "projected"

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


@dataclass(frozen=True)
class FeatureMap:
    """A layer's output [faces, channels, height, width], averaged over squares of `pool` x `pool` cells."""

    tensor: str
    pool: int = 1


@dataclass(frozen=True)
class Projection:
    """``flat(reduction @ map, for each map) @ weight + bias``.

    reductions : [reduced, channels], one per map, applied at every cell.
    weight : [features, 512]; features are the concatenation of all maps' reduced channels x height x width.
    bias : [512].
    """

    maps: tuple[FeatureMap, ...]
    reductions: tuple[Array, ...]
    weight: Array
    bias: Array

    def save(self, file: Path) -> None:
        """Write the projection; the weight as int8 with 512 scales, a quarter of the bytes."""
        scale = np.abs(self.weight).max(axis=0) / 127
        tensors: dict[str, npt.NDArray[np.generic]] = {
            f"reduction.{number}": reduction.astype(np.float16)
            for number, reduction in enumerate(self.reductions)
        }
        tensors |= {"weight": np.rint(self.weight / scale).astype(np.int8), "scale": scale, "bias": self.bias}
        write_safetensors(file, tensors, {"maps": json.dumps([asdict(one) for one in self.maps])})


def load_projection(recogniser: str) -> Projection | None:
    """Return the projection that this package includes for a recogniser such as `w600k_mbf`, if any."""
    file = PROJECTIONS / f"{recogniser}.safetensors"
    if not file.exists():
        return None
    with safe_open(file, "numpy") as tensors:
        maps = tuple(FeatureMap(**one) for one in json.loads(tensors.metadata()["maps"]))
        return Projection(
            maps,
            tuple(tensors.get_tensor(f"reduction.{n}").astype(np.float32) for n in range(len(maps))),
            tensors.get_tensor("weight").astype(np.float32) * tensors.get_tensor("scale"),
            tensors.get_tensor("bias"),
        )


def mapped_model(
    model: onnx.ModelProto, maps: Sequence[FeatureMap], reductions: Sequence[Array] = ()
) -> onnx.ModelProto:
    """Cut a recogniser off after these maps; its one output is [faces, features], the maps flattened.

    reductions : matrices [reduced, channels], one per map, applied to its channels.

    Raises ValueError if the recogniser lacks one of the layers.
    """
    produced = {output for node in model.graph.node for output in node.output}
    if missing := [one.tensor for one in maps if one.tensor not in produced]:
        raise ValueError(
            f"this recogniser has no layer {', '.join(missing)}: the projection was fitted to another one"
        )
    known = onnx.shape_inference.infer_shapes(model)
    model = onnx.utils.Extractor(known).extract_model(
        [model.graph.input[0].name], [one.tensor for one in maps]
    )
    graph = model.graph
    del graph.output[:]
    flat = []
    for number, one in enumerate(maps):
        name = one.tensor
        if one.pool > 1:
            square = [one.pool, one.pool]
            node = helper.make_node(
                "AveragePool", [name], [f"{name}.pooled"], kernel_shape=square, strides=square
            )
            graph.node.append(node)
            name = node.output[0]
        if reductions:
            kernel = numpy_helper.from_array(reductions[number][:, :, None, None], f"reduction.{number}")
            graph.initializer.append(kernel)
            graph.node.append(helper.make_node("Conv", [name, kernel.name], [f"{name}.reduced"]))
            name = f"{name}.reduced"
        graph.node.append(helper.make_node("Flatten", [name], [f"{name}.flat"]))
        flat.append(f"{name}.flat")
    graph.node.append(helper.make_node("Concat", flat, [OUTPUT], axis=1))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["faces", None]))
    return model


def projected_model(model: onnx.ModelProto, projection: Projection) -> onnx.ModelProto:
    """Replace a recogniser's last layers by the projection; its one output is [faces, 512].

    Raises ValueError if the recogniser lacks one of the layers.
    """
    model = mapped_model(model, projection.maps, projection.reductions)
    graph = model.graph
    graph.node[-1].output[0] = "features"
    weight, bias = "projection.weight", "projection.bias"
    graph.initializer.append(numpy_helper.from_array(projection.weight, weight))
    graph.initializer.append(numpy_helper.from_array(projection.bias, bias))
    graph.node.append(helper.make_node("Gemm", ["features", weight, bias], [OUTPUT]))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = projection.weight.shape[1]
    return model


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
