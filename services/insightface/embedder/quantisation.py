"""Quantise a network of convolutions to 8-bit integers, so that every CPU computes the same numbers.

CPUs without VNNI multiply unsigned by signed bytes in pairs and add each pair in 16 bits (`vpmaddubsw`),
where two large products saturate: an ordinary 8-bit network then gives other answers than on a CPU with VNNI.
Here the two largest weights of an output channel are at most 128 together, so that no pair of products
exceeds ``255 * 128``, whichever weights a kernel pairs. All sums are thus exact integers, in any order.

The scheme is that of Jacob et al. 2018 (arXiv 1712.05877) with one scale per output channel. Each map is
bounded by its activation (Relu6), so that no images are needed to find its range.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_LARGEST, _LARGEST_PAIR = 127, 128
_BIAS_BITS = 30  # of the 31 of an int32, so that the sums of the products fit beside a bias
_SMALLEST_SCALE = 1e-12


@dataclass
class Layer:
    """A convolution with the following factors and offsets folded in, and its activation's upper bound.

    weight, bias : [out, in, height, width], [out]; float64.
    """

    attributes: dict[str, Any]
    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    bound: float = 0.0


@dataclass(frozen=True)
class Quantised:
    """Integers of a layer, and the scale of a weight and of a bias per output channel."""

    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    weight_scale: npt.NDArray[np.float32]
    bias_scale: npt.NDArray[np.float32]


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network in 8 bits: `QuantizeLinear` and `DequantizeLinear` around each convolution.

    model : takes images [n, height, width, 3] of whole numbers from 0 to 255. It is a sequence of
        convolutions, each followed by factors and offsets per channel and by a clip from 0, and ends with the
        mean of the last map.

    Raises ValueError for another structure.
    """
    layers = _layers(model)
    graph = _Writer()
    image = graph.node("Transpose", ["image"], perm=[0, 3, 1, 2])
    scale = 1.0
    value = graph.requantised(image, scale, scale)
    for layer in layers:
        integers = quantise(layer, scale)
        inputs = [value, *graph.weights(integers)]
        convolution = graph.node("Conv", inputs, **layer.attributes)
        scale = float(np.float32(layer.bound / 255))
        # The last map stays in steps of 1, so that its mean is exact too.
        value = graph.requantised(convolution, scale, 1.0 if layer is layers[-1] else scale)
    mean = graph.node("ReduceMean", [value], axes=[2, 3], keepdims=0)
    graph.node("Mul", [mean, graph.constant(np.array(scale, np.float32))], output="features")
    written = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"{model.graph.name}-int8",
            [model.graph.input[0]],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(layers[-1].bias)])],
            graph.constants,
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    onnx.checker.check_model(written)
    return written


def quantise(layer: Layer, input_scale: float) -> Quantised:
    """Round a layer to integers.

    input_scale : step of the map that it reads.
    """
    rows = np.abs(layer.weight).reshape(len(layer.weight), -1)
    largest = np.sort(rows, axis=1)[:, -2:]
    # Rounding adds at most half a step to each of the two, so their sum stays within `_LARGEST_PAIR`.
    step = np.maximum(largest[:, -1] / _LARGEST, largest.sum(axis=1) / (_LARGEST_PAIR - 1))
    if _depthwise(layer):  # its kernels sum in 32 bits
        step = rows.max(axis=1) / _LARGEST
    # A channel without weights has a bias that must fit its steps.
    step = np.maximum(step, np.abs(layer.bias) / (2.0**_BIAS_BITS * input_scale))
    weight_scale = np.maximum(step, _SMALLEST_SCALE).astype(np.float32)
    bias_scale = np.asarray(weight_scale * np.float32(input_scale), np.float32)
    weight = np.rint(layer.weight / weight_scale.astype(np.float64)[:, None, None, None])
    bias = np.rint(layer.bias / bias_scale.astype(np.float64))
    return Quantised(weight.astype(np.int8), bias.astype(np.int32), weight_scale, bias_scale)


def _depthwise(layer: Layer) -> bool:
    return bool(layer.attributes.get("group", 1) == len(layer.weight) > 1 and layer.weight.shape[1] == 1)


def _layers(model: onnx.ModelProto) -> list[Layer]:
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    layers: list[Layer] = []
    for node in model.graph.node:
        given = [constants[name].astype(np.float64) for name in node.input if name in constants]
        match node.op_type:
            case "Conv":
                attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
                bias = given[1] if len(given) > 1 else np.zeros(len(given[0]))
                layers.append(Layer(attributes, given[0], bias))
            case "Mul":
                factor = given[0].reshape(-1)
                layers[-1].weight = layers[-1].weight * factor[:, None, None, None]
                layers[-1].bias = layers[-1].bias * factor
            case "Add":
                layers[-1].bias = layers[-1].bias + given[0].reshape(-1)
            case "Clip" if len(given) == 2 and given[0] == 0:
                layers[-1].bound = given[1].item()
            case "Transpose" | "ReduceMean" | "Identity":
                pass
            case other:
                raise ValueError(f"{other} cannot be quantised; expected convolutions, each with a clip")
    if not layers or any(layer.bound <= 0 for layer in layers):
        raise ValueError("a convolution without a clip from 0 cannot be quantised")
    return layers


@dataclass
class _Writer:
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, array: npt.NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def requantised(self, value: str, scale: float, read_scale: float) -> str:
        """Round a map to bytes in steps of `scale`; what follows reads them in steps of `read_scale`."""
        zero = self.constant(np.array(0, np.uint8))
        steps = [self.constant(np.array(step, np.float32)) for step in (scale, read_scale)]
        integers = self.node("QuantizeLinear", [value, steps[0], zero])
        return self.node("DequantizeLinear", [integers, steps[1], zero])

    def weights(self, layer: Quantised) -> list[str]:
        """Return the names of a layer's weight and bias."""
        return [
            self.node(
                "DequantizeLinear",
                [
                    self.constant(values),
                    self.constant(scale),
                    self.constant(np.zeros_like(values, shape=len(scale))),
                ],
                axis=0,
            )
            for values, scale in ((layer.weight, layer.weight_scale), (layer.bias, layer.bias_scale))
        ]
