"""PRelu written in operators for which ONNX Runtime keeps its blocked layout on CPUs.

ONNX Runtime has no PRelu in the layout in which its convolutions are fastest (NCHWc), so each one costs two
reorderings of the whole feature map: half the time of ArcFace's recognisers.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper
from onnx.helper import make_node

Model = Path | bytes

_BROADCASTS_SINCE = 7  # opset in which Mul and Add took numpy's rules


def without_prelu(model: Model) -> Model:
    """The same function to the last bits of float32; the model itself where it has no PRelu to rewrite."""
    loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    constants = {constant.name: constant for constant in loaded.graph.initializer}
    known = {node.input[1] for node in loaded.graph.node if node.op_type == "PRelu"} & set(constants)
    opset = next(one.version for one in loaded.opset_import if one.domain in ("", "ai.onnx"))
    if not known or opset < _BROADCASTS_SINCE:
        return model
    nodes: list[NodeProto] = []
    for node in loaded.graph.node:
        if node.op_type == "PRelu" and node.input[1] in known:
            nodes += _rectified(node)
        else:
            nodes.append(node)
    for name in sorted(known):
        slope = numpy_helper.to_array(constants[name])
        rest = np.asarray(1 - slope, dtype=slope.dtype)
        loaded.graph.initializer.append(numpy_helper.from_array(rest, _rest(name)))
    del loaded.graph.node[:]
    loaded.graph.node.extend(nodes)
    return bytes(loaded.SerializeToString())


def _rectified(node: NodeProto) -> list[NodeProto]:
    """``slope * x + (1 - slope) * relu(x)``."""
    (given, slope), (answer,) = node.input, node.output
    positive, above, below = (f"{answer}.{part}" for part in ("positive", "above", "below"))
    return [
        make_node("Relu", [given], [positive]),
        make_node("Mul", [positive, _rest(slope)], [above]),
        make_node("Mul", [given, slope], [below]),
        make_node("Add", [below, above], [answer]),
    ]


def _rest(slope: str) -> str:
    return f"{slope}.rest"
