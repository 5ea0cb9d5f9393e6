"""Convert a frozen TensorFlow.js graph model to ONNX, in ONNX Runtime's preferred layout.

The source format is that of the tfjs converter (https://www.tensorflow.org/js/guide/conversion): a JSON
topology of TensorFlow nodes beside shards of weights, which may be stored as float16.

TensorFlow's images are [batch, height, width, channels]; ONNX's convolutions expect channels second. Every
tensor of four dimensions is therefore kept transposed from the first node on, so that no transposition
remains inside the network; the input keeps TensorFlow's layout.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
_AXIS = {0: 0, 1: 2, 2: 3, 3: 1, -1: 1}  # of a TensorFlow axis in our layout


_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "float16": np.dtype("<f2"),
}


@dataclass(frozen=True)
class Node:
    """One operation. `inputs` are names of nodes, without output index or control edges."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]

    def integers(self, attribute: str) -> list[int]:
        return [int(value) for value in self.attributes[attribute]["list"]["i"]]

    def string(self, attribute: str) -> str:
        return base64.b64decode(self.attributes[attribute]["s"]).decode()

    def strings(self, attribute: str) -> list[str]:
        values = self.attributes.get(attribute, {}).get("list", {}).get("s", [])
        return [base64.b64decode(value).decode() for value in values]

    def flag(self, attribute: str) -> bool:
        return bool(self.attributes.get(attribute, {}).get("b", False))


@dataclass(frozen=True)
class Graph:
    """A graph and its weights by node name."""

    nodes: tuple[Node, ...]
    weights: dict[str, npt.NDArray[Any]]

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def needed_for(self, outputs: list[str]) -> list[Node]:
        """Return the nodes that the outputs depend on, each after its inputs."""
        ordered: dict[str, Node] = {}
        waiting = [(name, False) for name in reversed(outputs)]
        while waiting:
            name, inputs_done = waiting.pop()
            if name in ordered:
                continue
            node = self.by_name[name]
            if inputs_done:
                ordered[name] = node
            else:
                waiting.append((name, True))
                waiting.extend((source, False) for source in node.inputs)
        return list(ordered.values())


def read_graph(model_json: Path) -> Graph:
    """Read a graph and its weights, float32 and int64.

    Raises ValueError if the shards are shorter than the manifest declares.
    """
    description = json.loads(model_json.read_text())
    nodes = tuple(
        Node(
            node["name"],
            node["op"],
            tuple(name.split(":")[0] for name in node.get("input", []) if not name.startswith("^")),
            node.get("attr", {}),
        )
        for node in description["modelTopology"]["node"]
    )
    weights: dict[str, npt.NDArray[Any]] = {}
    for group in description["weightsManifest"]:
        content = b"".join((model_json.parent / name).read_bytes() for name in group["paths"])
        offset = 0
        for entry in group["weights"]:
            stored = _DTYPES[entry.get("quantization", {}).get("dtype") or entry["dtype"]]
            count = int(np.prod(entry["shape"], dtype=np.int64))
            array = np.frombuffer(content, stored, count, offset).reshape(entry["shape"])
            offset += array.nbytes
            weights[entry["name"]] = array.astype(np.int64 if entry["dtype"] == "int32" else np.float32)
    return Graph(nodes, weights)


def convert(graph: Graph, outputs: dict[str, str], name: str) -> onnx.ModelProto:
    """Convert the part of a graph that the outputs depend on.

    Parameters
    ----------
    outputs : node name -> name of the ONNX output.

    Returns
    -------
    A checked model with the input `image` [batch, height, width, 3] float32 and a dynamic batch.
    Raises NotImplementedError for an operation that is not supported.
    """
    return _Emitter(graph).model(outputs, name)


class _Emitter:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.rank: dict[str, int] = {}
        self.value: dict[str, str] = {}  # TensorFlow node -> ONNX tensor that holds its value
        self.not_negative: dict[str, str] = {}  # ONNX tensor that is a Relu or Clip -> its input

    def model(self, outputs: dict[str, str], name: str) -> onnx.ModelProto:
        image_shape: list[int] = []
        for node in self.graph.needed_for(list(outputs)):
            if node.op == "Placeholder":
                image_shape = [int(size["size"]) for size in node.attributes["shape"]["shape"]["dim"]]
                self.value[node.name] = self.add("Transpose", ["image"], perm=[0, 3, 1, 2])
                self.rank[node.name] = 4
            elif node.op != "Const":
                self.emit(node)
        for source, target in outputs.items():
            value = self.value[source]
            if self.rank[source] == 4:
                value = self.add("Transpose", [value], perm=[0, 2, 3, 1])
            self.nodes.append(helper.make_node("Identity", [value], [target]))
        self.forget_unused(list(outputs.values()))
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                name,
                [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *image_shape[1:]])],
                [
                    helper.make_tensor_value_info(
                        target, TensorProto.FLOAT, ["batch", *[None] * (self.rank[source] - 1)]
                    )
                    for source, target in outputs.items()
                ],
                list(self.constants.values()),
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=9,
        )
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model)

    def forget_unused(self, outputs: list[str]) -> None:
        """Remove unused nodes: a Relu that became a Clip would keep ONNX Runtime from fusing both."""
        needed = set(outputs)
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, array: npt.NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def weight(self, node: Node, index: int) -> npt.NDArray[Any]:
        return self.graph.weights[node.inputs[index]]

    def emit(self, node: Node) -> None:
        emitters: dict[str, Callable[[Node], tuple[str, int]]] = {
            "Conv2D": self.convolution,
            "_FusedConv2D": self.convolution,
            "DepthwiseConv2dNative": self.convolution,
            "FusedDepthwiseConv2dNative": self.convolution,
            "MatMul": self.matrix_product,
            "_FusedMatMul": self.matrix_product,
            "Add": self.arithmetic,
            "AddV2": self.arithmetic,
            "Sub": self.arithmetic,
            "Mul": self.arithmetic,
            "Maximum": self.arithmetic,
            "Minimum": self.arithmetic,
            "Relu": self.relu,
            "Prelu": self.prelu,
            "Sigmoid": self.sigmoid,
            "Softmax": self.softmax,
            "Mean": self.mean,
            "MaxPool": self.max_pool,
            "Pad": self.pad,
            "Reshape": self.reshape,
            "Identity": self.identity,
        }
        if node.op not in emitters:
            raise NotImplementedError(f"no emitter for {node.op} ({node.name})")
        self.value[node.name], self.rank[node.name] = emitters[node.op](node)

    def operand(self, node: Node, index: int, rank: int) -> str:
        """Return an input in the shape in which it broadcasts against a tensor of `rank` in our layout."""
        source = node.inputs[index]
        if source in self.value:
            return self.value[source]
        array = self.graph.weights[source]
        if rank == 4 and array.ndim == 1 and array.size > 1:
            array = array.reshape(-1, 1, 1)
        elif rank == 4 and array.ndim == 3:
            array = array.transpose(2, 0, 1)
        return self.constant(array)

    def convolution(self, node: Node) -> tuple[str, int]:
        kernel = self.weight(node, 1)  # height, width, in, out (or in, multiplier)
        height, width = kernel.shape[:2]
        if "epthwise" in node.op:
            groups = kernel.shape[2]
            kernel = kernel.transpose(2, 3, 0, 1).reshape(-1, 1, height, width)
        else:
            groups = 1
            kernel = kernel.transpose(3, 2, 0, 1)
        inputs = [self.value[node.inputs[0]], self.constant(kernel)]
        fused = node.strings("fused_ops")
        if "BiasAdd" in fused:
            inputs.append(self.constant(self.weight(node, 2).reshape(-1)))
        output = self.add(
            "Conv",
            inputs,
            kernel_shape=[height, width],
            strides=node.integers("strides")[1:3],
            group=groups,
            auto_pad={"SAME": "SAME_UPPER", "VALID": "VALID"}[node.string("padding")],
        )
        return self.activated(node, output, fused), 4

    def matrix_product(self, node: Node) -> tuple[str, int]:
        kernel = self.weight(node, 1)
        if node.flag("transpose_b"):
            kernel = kernel.T
        output = self.add("MatMul", [self.value[node.inputs[0]], self.constant(kernel)])
        fused = node.strings("fused_ops")
        if "BiasAdd" in fused:
            output = self.add("Add", [output, self.constant(self.weight(node, 2))])
        return self.activated(node, output, fused), 2

    def activated(self, node: Node, output: str, fused: list[str]) -> str:
        match [name for name in fused if name != "BiasAdd"]:
            case []:
                return output
            case ["Relu"]:
                return self.add("Relu", [output])
            case ["Relu6"]:
                return self.clip(output, 0, 6)
            case ["Prelu"]:
                return self.add("PRelu", [output, self.constant(self.weight(node, 3).reshape(-1, 1, 1))])
            case unknown:
                raise NotImplementedError(f"fused {unknown} ({node.name})")

    def arithmetic(self, node: Node) -> tuple[str, int]:
        rank = max(self.rank.get(source, 0) for source in node.inputs)
        if node.op in ("Minimum", "Maximum") and (bound := self.scalar_bound(node)) is not None:
            return self.bounded(node, bound), rank
        op = {"AddV2": "Add", "Maximum": "Max", "Minimum": "Min"}.get(node.op, node.op)
        return self.add(op, [self.operand(node, 0, rank), self.operand(node, 1, rank)]), rank

    def scalar_bound(self, node: Node) -> float | None:
        if node.inputs[1] in self.graph.weights and self.weight(node, 1).size == 1:
            return float(self.weight(node, 1).reshape(()))
        return None

    def bounded(self, node: Node, bound: float) -> str:
        """Emit a sequence of Relu, minimum and maximum as one Clip, which fuses into a convolution."""
        source = self.value[node.inputs[0]]
        if node.op == "Minimum" and source in self.not_negative:
            clipped = self.clip(self.not_negative[source], 0, bound)
            self.not_negative[clipped] = source
            return clipped
        if node.op == "Maximum" and bound <= 0 and source in self.not_negative:
            return source
        return self.clip(source, bound, None) if node.op == "Maximum" else self.clip(source, None, bound)

    def clip(self, source: str, low: float | None, high: float | None) -> str:
        ends = ["" if end is None else self.constant(np.array(end, np.float32)) for end in (low, high)]
        return self.add("Clip", [source, *ends])

    def relu(self, node: Node) -> tuple[str, int]:
        source = self.value[node.inputs[0]]
        output = self.add("Relu", [source])
        self.not_negative[output] = source
        return output, self.rank[node.inputs[0]]

    def prelu(self, node: Node) -> tuple[str, int]:
        rank = self.rank[node.inputs[0]]
        return self.add("PRelu", [self.value[node.inputs[0]], self.operand(node, 1, rank)]), rank

    def sigmoid(self, node: Node) -> tuple[str, int]:
        return self.add("Sigmoid", [self.value[node.inputs[0]]]), self.rank[node.inputs[0]]

    def softmax(self, node: Node) -> tuple[str, int]:
        return self.add("Softmax", [self.value[node.inputs[0]]], axis=-1), self.rank[node.inputs[0]]

    def mean(self, node: Node) -> tuple[str, int]:
        axes = [_AXIS[int(axis)] for axis in self.weight(node, 1).reshape(-1)]
        keep = node.flag("keep_dims")
        output = self.add("ReduceMean", [self.value[node.inputs[0]]], axes=axes, keepdims=int(keep))
        return output, 4 if keep else 4 - len(axes)

    def max_pool(self, node: Node) -> tuple[str, int]:
        output = self.add(
            "MaxPool",
            [self.value[node.inputs[0]]],
            kernel_shape=node.integers("ksize")[1:3],
            strides=node.integers("strides")[1:3],
            auto_pad={"SAME": "SAME_UPPER", "VALID": "VALID"}[node.string("padding")],
        )
        return output, 4

    def pad(self, node: Node) -> tuple[str, int]:
        batch, height, width, channels = self.weight(node, 1)
        pads = np.array([batch, channels, height, width]).T.reshape(-1)
        return self.add("Pad", [self.value[node.inputs[0]], self.constant(pads)]), 4

    def reshape(self, node: Node) -> tuple[str, int]:
        source = self.value[node.inputs[0]]
        if self.rank[node.inputs[0]] == 4:
            source = self.add("Transpose", [source], perm=[0, 2, 3, 1])
        shape = self.weight(node, 1).copy()
        shape[0] = 0  # ONNX: keep the batch
        if len(shape) == 4:
            raise NotImplementedError(f"reshape to four dimensions ({node.name})")
        return self.add("Reshape", [source, self.constant(shape)]), len(shape)

    def identity(self, node: Node) -> tuple[str, int]:
        return self.value[node.inputs[0]], self.rank[node.inputs[0]]
