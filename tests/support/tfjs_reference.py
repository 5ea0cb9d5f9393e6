"""A slow, plain reading of TensorFlow's operations in NumPy, to hold the converter against.

Everything stays in TensorFlow's own layout, [batch, height, width, channels]; nothing is shared with the
converter but the reader of the file format.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from embedder.tfjs import Graph, Node

Array = npt.NDArray[Any]


def evaluate(graph: Graph, outputs: list[str], image: Array) -> list[Array]:
    values: dict[str, Array] = dict(graph.weights)
    for node in graph.needed_for(outputs):
        if node.op == "Placeholder":
            values[node.name] = image
        elif node.op != "Const":
            values[node.name] = _operation(node, [values[name] for name in node.inputs])
    return [values[name] for name in outputs]


def _operation(node: Node, inputs: list[Array]) -> Array:
    x = inputs[0]
    match node.op:
        case "Conv2D" | "_FusedConv2D":
            patches = _patches(x, inputs[1].shape[:2], node, 0.0)
            return _fused(node, np.tensordot(patches, inputs[1].transpose(2, 0, 1, 3), 3), inputs)
        case "DepthwiseConv2dNative" | "FusedDepthwiseConv2dNative":
            patches = _patches(x, inputs[1].shape[:2], node, 0.0)
            return _fused(node, np.einsum("nhwcij,ijc->nhwc", patches, inputs[1][..., 0]), inputs)
        case "MatMul" | "_FusedMatMul":
            kernel = inputs[1].T if node.flag("transpose_b") else inputs[1]
            return _fused(node, x @ kernel, inputs)
        case "MaxPool":
            return np.asarray(
                _patches(x, tuple(node.integers("ksize")[1:3]), node, -np.inf).max(axis=(-2, -1))
            )
        case "Add" | "AddV2":
            return np.asarray(x + inputs[1])
        case "Sub":
            return np.asarray(x - inputs[1])
        case "Mul":
            return np.asarray(x * inputs[1])
        case "Maximum":
            return np.maximum(x, inputs[1])
        case "Minimum":
            return np.minimum(x, inputs[1])
        case "Relu":
            return np.maximum(x, 0)
        case "Prelu":
            return np.where(x > 0, x, x * inputs[1])
        case "Sigmoid":
            return np.asarray(1 / (1 + np.exp(-x)))
        case "Softmax":
            powers = np.exp(x - x.max(axis=-1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
        case "Mean":
            return np.asarray(x.mean(axis=tuple(inputs[1].reshape(-1)), keepdims=node.flag("keep_dims")))
        case "Pad":
            return np.pad(x, inputs[1])
        case "Reshape":
            return x.reshape(len(x), *inputs[1][1:])
        case "Identity":
            return x
    raise NotImplementedError(node.op)


def _fused(node: Node, x: Array, inputs: list[Array]) -> Array:
    for name in node.strings("fused_ops"):
        match name:
            case "BiasAdd":
                x = x + inputs[2]
            case "Relu":
                x = np.maximum(x, 0)
            case "Relu6":
                x = np.clip(x, 0, 6)
            case "Prelu":
                x = np.where(x > 0, x, x * inputs[3])
            case _:
                raise NotImplementedError(name)
    return x


def _patches(x: Array, kernel: tuple[int, ...], node: Node, fill: float) -> Array:
    """[batch, height, width, channels, kernel height, kernel width], padded as TensorFlow's SAME is."""
    strides = node.integers("strides")[1:3]
    if node.string("padding") == "SAME":
        pads = []
        for size, length, stride in zip(x.shape[1:3], kernel, strides, strict=True):
            missing = max((-(-size // stride) - 1) * stride + length - size, 0)
            pads.append((missing // 2, missing - missing // 2))
        x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return np.asarray(windows[:, :: strides[0], :: strides[1]])
