"""The 8-bit network computes exact integers, which are the same on every CPU."""

import hashlib

import cv2
import numpy as np
import onnx
import pytest
from embedder.quantisation import quantised
from embedder.sessions import Network
from onnx import helper, numpy_helper

from tests.support.packs import human_pack_dir
from tools.stack import PHOTOGRAPH

# Of all weights, biases and scales of faceres-deep-int8.onnx: the shipped heads fit this embedding alone.
PINNED = "560f192f8693d2b1bf425628013b474b075a4655a7b44af1d9ec6c76cec16f4a"


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(human_pack_dir() / "faceres-deep-int8.onnx")


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def convolutions(model: onnx.ModelProto) -> list[tuple[dict[str, object], list[np.ndarray]]]:
    """Return the attributes of each convolution, and its integer weight and bias with their scales."""
    values, maker = constants(model), {node.output[0]: node for node in model.graph.node}
    return [
        (
            {one.name: helper.get_attribute_value(one) for one in node.attribute},
            [values[name] for source in node.input[1:] for name in maker[source].input[:2]],
        )
        for node in model.graph.node
        if node.op_type == "Conv"
    ]


def test_the_same_weights_are_made_everywhere(model: onnx.ModelProto) -> None:
    digest = hashlib.sha256()
    for value in constants(model).values():
        digest.update(value.astype(value.dtype.newbyteorder("<")).tobytes())
    assert digest.hexdigest() == PINNED


def test_no_pair_of_products_exceeds_sixteen_bits(model: onnx.ModelProto) -> None:
    dense = [weight for attributes, (weight, *_) in convolutions(model) if attributes["group"] == 1]
    assert len(dense) == 14
    for weight in dense:
        largest = np.sort(np.abs(weight.astype(int)).reshape(len(weight), -1), axis=1)[:, -2:]
        assert largest.sum(axis=1).max() <= 128  # times 255 is 32,640
        assert np.abs(weight.astype(int)).max() > 64  # plain 7-bit weights would be coarser


def exact(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    """Evaluate the network for one image [height, width, 3] with sums in 64 bits."""
    outputs = [node.input[1:2] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    values = constants(model)
    steps = [np.float32(values[name].item()) for (name,) in outputs]
    bytes_in, step = image.transpose(2, 0, 1).astype(np.int64), steps[0]
    for (attributes, (weight, weight_scale, bias, _)), next_step in zip(
        convolutions(model), steps[1:], strict=True
    ):
        size, stride = weight.shape[2], int(attributes["strides"][0])  # type: ignore[index]
        after = -(-bytes_in.shape[1] // stride)
        missing = max((after - 1) * stride + size - bytes_in.shape[1], 0)
        pad = (missing // 2, missing - missing // 2)  # SAME_UPPER
        padded = np.pad(bytes_in, ((0, 0), pad, pad))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
        windows = windows[:, ::stride, ::stride].astype(np.float64)  # holds integers up to 2**53
        dense = attributes["group"] == 1
        pattern = "cyxhw,ochw->oyx" if dense else "oyxhw,ohw->oyx"
        sums = np.einsum(
            pattern, windows, (weight if dense else weight[:, 0]).astype(np.float64), optimize=True
        )
        whole = sums.astype(np.int64) + bias[:, None, None]
        assert np.abs(whole).max() < 2**31
        factor = (step * weight_scale / next_step).astype(np.float32)[:, None, None]
        bytes_in = np.clip(np.rint(whole.astype(np.float32) * factor), 0, 255).astype(np.int64)
        step = next_step
    return np.asarray(bytes_in.mean(axis=(1, 2)).astype(np.float32) * step)


@pytest.mark.parametrize("kind", ["photograph", "noise", "white"])
def test_onnx_runtime_sums_without_saturation(model: onnx.ModelProto, kind: str) -> None:
    photograph = cv2.imread(str(PHOTOGRAPH))
    assert photograph is not None
    image = {
        "photograph": np.asarray(cv2.resize(photograph[20:420, 400:800], (224, 224)), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8),
        "white": np.full((224, 224, 3), 255, np.uint8),
    }[kind]
    (computed,) = Network(model.SerializeToString(), 1, ["features"])(image[None])[0]
    np.testing.assert_allclose(computed, exact(model, image), rtol=1e-6)


def test_network_of_another_structure_is_rejected() -> None:
    with pytest.raises(ValueError, match="cannot be quantised"):
        quantised(onnx.load(human_pack_dir() / "mobileface.onnx"))
