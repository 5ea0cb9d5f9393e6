"""A recogniser's inner feature maps, projected: what identity discards of age and gender is still in them.

ArcFace's last layer maps its last feature map to 512 numbers that tell people apart, and shrinks what one
person shares with another: age and gender. A projection reads several maps instead, as deep as the last and
before it, and maps them together to 512 numbers. It is fitted without labels (`tools.fit_projection`).
docs/embedding.md has the comparison.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from agegender.files import write_safetensors
from onnx import helper, numpy_helper
from safetensors import safe_open

Array = npt.NDArray[np.float32]

PROJECTIONS = Path(__file__).parent / "projections"
OUTPUT = "projected"


@dataclass(frozen=True)
class FeatureMap:
    """A layer's output [faces, channels, height, width], averaged over squares of `pool` x `pool` places."""

    tensor: str
    pool: int = 1


@dataclass(frozen=True)
class Projection:
    """``flat(reduction @ map, for each map) @ weight + bias``.

    `reductions` are [reduced, channels], one a map, applied at every place; weight is [features, 512], where
    features are all maps' reduced channels x height x width side by side; bias is [512].
    """

    maps: tuple[FeatureMap, ...]
    reductions: tuple[Array, ...]
    weight: Array
    bias: Array

    def save(self, file: Path) -> None:
        """The weight as int8 with a scale for each of the 512 numbers: a quarter of the bytes."""
        scale = np.abs(self.weight).max(axis=0) / 127
        tensors: dict[str, npt.NDArray[np.generic]] = {
            f"reduction.{number}": reduction.astype(np.float16)
            for number, reduction in enumerate(self.reductions)
        }
        tensors |= {"weight": np.rint(self.weight / scale).astype(np.int8), "scale": scale, "bias": self.bias}
        write_safetensors(file, tensors, {"maps": json.dumps([asdict(one) for one in self.maps])})


def load_projection(recogniser: str) -> Projection | None:
    """The projection that comes with this package for a recogniser such as `w600k_mbf`, if there is one."""
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
    """The recogniser up to these maps; its one output is [faces, features], the maps flattened side by side.

    With `reductions` [reduced, channels] of all maps, each map's channels are mapped by its own.
    Raises ValueError where the recogniser has no such layer.
    """
    produced = {output for node in model.graph.node for output in node.output}
    if missing := [one.tensor for one in maps if one.tensor not in produced]:
        raise ValueError(
            f"this recogniser has no layer {', '.join(missing)}: it is not the one that was projected"
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
    """The recogniser with the projection in its last layers' place; its one output is [faces, 512].

    Raises ValueError where the recogniser has no such layers.
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
