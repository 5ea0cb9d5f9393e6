"""A recogniser's last feature map, projected: what identity discards of age and gender is still in it.

ArcFace's last layer maps the flattened feature map to 512 numbers that tell people apart, and shrinks what
one person shares with another: age and gender. A projection takes that layer's place. It is fitted without
labels: the 512 principal components of the feature maps of many faces, then a fixed random rotation, so that
every number carries as much as any other and standardising them does not blow up the faint ones.
docs/embedding.md has the comparison.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from safetensors.numpy import load_file, save_file

Array = npt.NDArray[np.float32]

PROJECTIONS = Path(__file__).parent / "projections"
OUTPUT = "projected"
_ROTATION_SEED = 0


@dataclass(frozen=True)
class Projection:
    """``features @ weight + bias``; weight [features, 512], bias [512]."""

    weight: Array
    bias: Array

    def save(self, file: Path) -> None:
        """As float16: half the bytes in the repository."""
        save_file({"weight": self.weight.astype(np.float16), "bias": self.bias.astype(np.float16)}, file)


def load_projection(recogniser: str) -> Projection | None:
    """The projection that comes with this package for a recogniser such as `w600k_mbf`, if there is one."""
    file = PROJECTIONS / f"{recogniser}.safetensors"
    if not file.exists():
        return None
    tensors = load_file(file)
    return Projection(tensors["weight"].astype(np.float32), tensors["bias"].astype(np.float32))


def fit_projection(features: Array, dimension: int = 512) -> Projection:
    """Principal components of `features` [faces, d], rotated; more faces than d are needed for good ones."""
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    components = vectors[:, ::-1][:, :dimension]
    draws = np.random.default_rng(_ROTATION_SEED).standard_normal((dimension, dimension))
    weight = components @ np.linalg.qr(draws)[0]
    return Projection(weight.astype(np.float32), (-mean @ weight).astype(np.float32))


def feature_map_name(model: onnx.ModelProto) -> str:
    """The flattened last feature map of a recogniser. Raises ValueError where it has none."""
    flattened = [node.output[0] for node in model.graph.node if node.op_type == "Flatten"]
    if not flattened:
        raise ValueError("this recogniser flattens no feature map, so it cannot be projected")
    return str(flattened[-1])


def projected_model(model: onnx.ModelProto, projection: Projection) -> onnx.ModelProto:
    """The recogniser with the projection in its last layer's place; its one output is [faces, 512]."""
    features = feature_map_name(model)
    graph = model.graph
    kept = [node.output[0] for node in graph.node].index(features) + 1
    del graph.node[kept:]
    del graph.output[:]
    graph.initializer.extend(
        [
            numpy_helper.from_array(projection.weight, "projection.weight"),
            numpy_helper.from_array(projection.bias, "projection.bias"),
        ]
    )
    graph.node.append(helper.make_node("Gemm", [features, "projection.weight", "projection.bias"], [OUTPUT]))
    shape = ["faces", projection.weight.shape[1]]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, shape))
    return model
