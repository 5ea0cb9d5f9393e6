"""PRelu rewritten for ONNX Runtime's fast layout: the same numbers, and nothing else touched."""

import numpy as np
import onnx
import onnxruntime
import pytest
from embedder.sessions import faster
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 8


def network(
    activation: str, slope_is_constant: bool = True, groups: int = 0, steep: bool = False, read: bool = False
) -> bytes:
    """groups : of a convolution that follows; 0 is none. read : what is activated is an output, too."""
    draws = np.random.default_rng(0)
    weight = draws.standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32)
    slope = draws.uniform(-0.5, 1.5 if steep or not groups else 0.9, (CHANNELS, 1, 1)).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "weight")]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])]
    if slope_is_constant:
        constants.append(numpy_helper.from_array(slope, "slope"))
    else:
        inputs.append(helper.make_tensor_value_info("slope", TensorProto.FLOAT, [CHANNELS, 1, 1]))
    taken = ["features", "slope"] if activation == "PRelu" else ["features"]
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node(activation, taken, ["activated"]),
    ]
    answered = ["activated"] if read or not groups else []
    if groups:
        after = draws.standard_normal((2 * CHANNELS, CHANNELS // groups, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(after, "after"))
        convolution = helper.make_node("Conv", ["activated", "after"], ["answer"], pads=[1, 1, 1, 1])
        if groups > 1:
            convolution.attribute.append(helper.make_attribute("group", groups))
        nodes.append(convolution)
        answered.append("answer")
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "channels", 16, 16]) for name in answered
    ]
    graph = helper.make_graph(nodes, "small", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def answers(model: bytes, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"image": images}))


@pytest.mark.parametrize(
    "before, operators",
    [
        (network("PRelu"), 4),
        (network("PRelu", groups=1), 3),
        (network("PRelu", groups=2), 3),
        (network("PRelu", groups=CHANNELS), 3),  # by depth
        (network("PRelu", groups=1, steep=True), 4),
        (network("PRelu", groups=1, read=True), 4),
    ],
)
def test_a_network_answers_the_same_without_its_prelu(before: bytes, operators: int) -> None:
    after = faster(before)
    assert isinstance(after, bytes)
    loaded = onnx.load_from_string(after)
    onnx.checker.check_model(loaded)
    kinds = [node.op_type for node in loaded.graph.node]
    assert "PRelu" not in kinds
    assert len(kinds) - kinds.count("Conv") == operators
    images = np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    for now, then in zip(answers(after, images), answers(before, images), strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-5, atol=1e-5)


def test_a_network_without_a_prelu_or_with_a_computed_slope_stays_as_it_is() -> None:
    for model in (network("Relu"), network("PRelu", slope_is_constant=False)):
        assert faster(model) is model
