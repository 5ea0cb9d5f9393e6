"""PRelu written in operators for which ONNX Runtime keeps its blocked layout on CPUs.

ONNX Runtime has no PRelu in the layout in which its convolutions are fastest (NCHWc), so each one costs two
reorderings of the whole feature map: half the time of ArcFace's recognisers.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node

Model = Path | bytes
Array = npt.NDArray[np.floating]

_BROADCASTS_SINCE = 7  # opset in which Mul and Add took numpy's rules
_STEEPEST = 0.99  # a slope near 1 leaves nothing to fold


def without_prelu(model: Model) -> Model:
    """The same function to the last bits of float32; the model itself where it has no PRelu to rewrite."""
    loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    graph = loaded.graph
    constants = {constant.name: constant for constant in graph.initializer}
    opset = next(one.version for one in loaded.opset_import if one.domain in ("", "ai.onnx"))
    prelus = {node.output[0] for node in graph.node if node.op_type == "PRelu" and node.input[1] in constants}
    if not prelus or opset < _BROADCASTS_SINCE:
        return model
    uses = Counter(given for node in graph.node for given in node.input)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] not in prelus:
            nodes.append(node)
            continue
        slope = numpy_helper.to_array(constants[node.input[1]])
        following = _folding(graph, constants, uses, node.output[0], slope)
        for convolution in following:
            _scale_inputs(convolution, constants[convolution.input[1]], (1 - slope).ravel())
        written, factors = _folded(node, slope) if following else _rectified(node, slope)
        nodes += written
        graph.initializer.extend(factors)
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(loaded.SerializeToString())


def _folding(
    graph: GraphProto, constants: dict[str, TensorProto], uses: Counter[str], name: str, slope: Array
) -> list[NodeProto]:
    """The convolutions that alone read a PRelu's output, where each can take a factor into its weights."""
    by_channel = slope.shape == (slope.size, 1, 1) and bool((slope < _STEEPEST).all())
    if not by_channel or name in {output.name for output in graph.output}:
        return []
    readers = [node for node in graph.node if name in node.input]
    own = all(
        node.op_type == "Conv" and node.input[1] in constants and uses[node.input[1]] == 1 for node in readers
    )
    return readers if own else []


def _scale_inputs(convolution: NodeProto, weight: TensorProto, factor: Array) -> None:
    """Multiply each input channel of a convolution by its factor [channels]."""
    values = numpy_helper.to_array(weight)
    outputs, inputs_a_group = values.shape[:2]
    groups = next((one.i for one in convolution.attribute if one.name == "group"), 1)
    group = np.arange(outputs) // (outputs // groups)
    channel = group[:, None] * inputs_a_group + np.arange(inputs_a_group)
    scaled = (values * factor[channel][:, :, None, None]).astype(values.dtype)
    weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))


def _folded(node: NodeProto, slope: Array) -> tuple[list[NodeProto], list[TensorProto]]:
    """``relu(x) + slope / (1 - slope) * x``: the PRelu without the factor ``1 - slope``, which follows."""
    given, answer = node.input[0], node.output[0]
    positive, rest, ratio = (f"{answer}.{part}" for part in ("positive", "rest", "ratio"))
    nodes = [
        make_node("Relu", [given], [positive]),
        make_node("Mul", [given, ratio], [rest]),
        make_node("Add", [positive, rest], [answer]),
    ]
    return nodes, [numpy_helper.from_array((slope / (1 - slope)).astype(slope.dtype), ratio)]


def _rectified(node: NodeProto, slope: Array) -> tuple[list[NodeProto], list[TensorProto]]:
    """``slope * x + (1 - slope) * relu(x)``."""
    (given, slope_name), (answer,) = node.input, node.output
    positive, above, below, rest = (f"{answer}.{part}" for part in ("positive", "above", "below", "rest"))
    nodes = [
        make_node("Relu", [given], [positive]),
        make_node("Mul", [positive, rest], [above]),
        make_node("Mul", [given, slope_name], [below]),
        make_node("Add", [below, above], [answer]),
    ]
    return nodes, [numpy_helper.from_array((1 - slope).astype(slope.dtype), rest)]
