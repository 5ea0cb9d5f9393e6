"""PRelu rewritten for ONNX Runtime's fast layout: the same numbers, and nothing else touched."""

import numpy as np
import onnx
import onnxruntime
from embedder.prelu import without_prelu
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 8


def network(activation: str, slope_is_constant: bool = True) -> bytes:
    draws = np.random.default_rng(0)
    weight = draws.standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32)
    slope = draws.uniform(-0.5, 1.5, (CHANNELS, 1, 1)).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "weight")]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])]
    if slope_is_constant:
        constants.append(numpy_helper.from_array(slope, "slope"))
    else:
        inputs.append(helper.make_tensor_value_info("slope", TensorProto.FLOAT, [CHANNELS, 1, 1]))
    taken = ["features", "slope"] if activation == "PRelu" else ["features"]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node(activation, taken, ["activated"]),
        ],
        "small",
        inputs,
        [helper.make_tensor_value_info("activated", TensorProto.FLOAT, ["n", CHANNELS, 16, 16])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def answers(model: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


def test_a_network_answers_the_same_without_its_prelu() -> None:
    before = network("PRelu")
    after = without_prelu(before)
    assert isinstance(after, bytes)
    onnx.checker.check_model(onnx.load_from_string(after))
    assert "PRelu" not in {node.op_type for node in onnx.load_from_string(after).graph.node}
    images = np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(answers(after, images), answers(before, images), rtol=1e-5, atol=1e-5)


def test_a_network_without_a_prelu_or_with_a_computed_slope_stays_as_it_is() -> None:
    for model in (network("Relu"), network("PRelu", slope_is_constant=False)):
        assert without_prelu(model) is model
