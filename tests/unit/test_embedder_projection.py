"""A recogniser whose last layer is replaced by a projection of its feature map."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from embedder.packs.projection import (
    OUTPUT,
    Projection,
    fit_projection,
    load_projection,
    projected_model,
)
from onnx import helper, numpy_helper

DRAWS = np.random.default_rng(7)


def recogniser(*, flattens: bool = True) -> onnx.ModelProto:
    """A convolution of 3 to 4 channels over 5 x 5 pixels, flattened to 36, and a last layer to 6."""
    kernel = DRAWS.standard_normal((4, 3, 3, 3)).astype(np.float32)
    last = DRAWS.standard_normal((36, 6)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["image", "kernel"], ["map"])]
    if flattens:
        nodes += [
            helper.make_node("Flatten", ["map"], ["flat"]),
            helper.make_node("MatMul", ["flat", "last"], ["embedding"]),
        ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, 5, 5])],
        [helper.make_tensor_value_info("embedding" if flattens else "map", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(last, "last")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def run(model: onnx.ModelProto, images: np.ndarray, output: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {"image": images})[0])


def test_the_projection_takes_the_last_layers_place() -> None:
    model = recogniser()
    images = DRAWS.standard_normal((3, 3, 5, 5)).astype(np.float32)
    features = onnx.ModelProto()
    features.CopyFrom(model)
    features.graph.output.append(helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, None))
    flat = run(features, images, "flat")
    projection = Projection(
        DRAWS.standard_normal((36, 5)).astype(np.float32), DRAWS.standard_normal(5).astype(np.float32)
    )
    projected = projected_model(model, projection)
    onnx.checker.check_model(projected)
    assert [output.name for output in projected.graph.output] == [OUTPUT]
    assert run(projected, images, OUTPUT) == pytest.approx(
        flat @ projection.weight + projection.bias, abs=1e-4
    )


def test_a_recogniser_without_a_flattened_map_is_refused() -> None:
    with pytest.raises(ValueError, match="flattens no feature map"):
        projected_model(
            recogniser(flattens=False), Projection(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
        )


def test_a_fit_keeps_the_distances_along_the_largest_components_and_centres() -> None:
    axes = np.linalg.qr(DRAWS.standard_normal((40, 40)))[0]
    strength = np.concatenate([np.full(8, 10.0), np.full(32, 0.01)])
    features = (DRAWS.standard_normal((500, 40)) * strength @ axes.T + 3).astype(np.float32)
    projection = fit_projection(features, dimension=8)
    said = features @ projection.weight + projection.bias
    assert said.mean(axis=0) == pytest.approx(np.zeros(8), abs=1e-3)
    assert np.linalg.norm(said[1:] - said[:-1], axis=1) == pytest.approx(
        np.linalg.norm(features[1:] - features[:-1], axis=1), rel=0.01
    )
    assert np.allclose(fit_projection(features, dimension=8).weight, projection.weight)


def test_a_saved_projection_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedder.packs.projection.PROJECTIONS", tmp_path)
    projection = Projection(DRAWS.standard_normal((9, 4)).astype(np.float32), np.ones(4, np.float32))
    projection.save(tmp_path / "mine.safetensors")
    read = load_projection("mine")
    assert read is not None
    assert read.weight == pytest.approx(projection.weight, rel=1e-3)
    assert load_projection("another") is None


def test_the_shipped_projection_is_orthonormal_and_small() -> None:
    projection = load_projection("w600k_mbf")
    assert projection is not None
    assert projection.weight.shape == (3136, 512)
    assert projection.weight.T @ projection.weight == pytest.approx(np.eye(512), abs=2e-3)
