"""Project a recogniser's inner feature maps, which keep the age and gender that its last layer discards.

ArcFace's last layer maps its last feature map to 512 numbers that identify people, and shrinks what people
share: age and gender. A projection maps several inner feature maps to 512 numbers instead. It is fitted
without labels (`tools.fit_projection`); docs/embedding.md has the comparison.
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
