"""A recogniser read at inner feature maps, which a projection maps to one vector."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from embedder.packs.insightface import (
    OUTPUT,
    FeatureMap,
    Projection,
    load_projection,
    mapped_model,
    projected_model,
)
from onnx import helper, numpy_helper

from tools.fit_projection import PLACES, fit_projection

DRAWS = np.random.default_rng(7)
MAPS = (FeatureMap("late"), FeatureMap("early", pool=2))


def recogniser() -> onnx.ModelProto:
    """Convolutions to 4 x 4 x 4 (`early`) and 5 x 2 x 2 (`late`), then a last layer to 6."""
    weights = {
        "first": DRAWS.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "second": DRAWS.standard_normal((5, 4, 3, 3)).astype(np.float32),
        "last": DRAWS.standard_normal((20, 6)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["early"]),
        helper.make_node("Conv", ["early", "second"], ["late"]),
        helper.make_node("Flatten", ["late"], ["flat"]),
        helper.make_node("MatMul", ["flat", "last"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def run(model: onnx.ModelProto, images: np.ndarray, *outputs: str) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(one) for one in session.run(list(outputs), {"image": images})]


def read_by_hand(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    """`late` as it is and `early` averaged over squares of two: [faces, channels, 4 places] each."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    for name in ("late", "early"):
        seen.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    late, early = run(seen, images, "late", "early")
    pooled = early.reshape(len(images), 4, 2, 2, 2, 2).mean(axis=(3, 5))
    return [late.reshape(len(images), 5, 4), pooled.reshape(len(images), 4, 4)]


def test_maps_are_pooled_and_flattened_side_by_side() -> None:
    model = recogniser()
    images = DRAWS.standard_normal((3, 3, 6, 6)).astype(np.float32)
    maps = read_by_hand(model, images)
    (read,) = run(mapped_model(model, MAPS), images, OUTPUT)
    assert read == pytest.approx(np.concatenate([one.reshape(3, -1) for one in maps], axis=1), abs=1e-4)


def test_the_projection_takes_the_last_layers_place() -> None:
    model = recogniser()
    images = DRAWS.standard_normal((3, 3, 6, 6)).astype(np.float32)
    reductions = tuple(DRAWS.standard_normal((2, count)).astype(np.float32) for count in (5, 4))
    weight, bias = DRAWS.standard_normal((16, 7)).astype(np.float32), np.ones(7, np.float32)
    projected = projected_model(model, Projection(MAPS, reductions, weight, bias))
    onnx.checker.check_model(projected)
    assert [output.name for output in projected.graph.output] == [OUTPUT]
    assert {node.op_type for node in projected.graph.node}.isdisjoint({"MatMul"}), "the last layer is gone"
    flat = [
        np.einsum("rc,fcp->frp", reduction, one).reshape(3, -1)
        for reduction, one in zip(reductions, read_by_hand(model, images), strict=True)
    ]
    assert run(projected, images, OUTPUT)[0] == pytest.approx(
        np.concatenate(flat, axis=1) @ weight + bias, abs=1e-3
    )


def test_a_recogniser_without_the_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer 505, 473"):
        mapped_model(recogniser(), (FeatureMap("late"), FeatureMap("505"), FeatureMap("473")))


def test_a_fit_keeps_the_distances_between_faces_and_centres() -> None:
    """Two maps whose numbers vary along few directions, the second a hundred times as much as the first."""
    hidden = DRAWS.standard_normal((700, 20))
    features = np.concatenate(
        [
            hidden @ DRAWS.standard_normal((20, 2 * PLACES)),
            100 * hidden @ DRAWS.standard_normal((20, 3 * PLACES)),
        ],
        axis=1,
    ).astype(np.float32)
    features += 3
    projection = fit_projection(features, MAPS, (2, 3), dimension=20)
    assert [reduction.shape for reduction in projection.reductions] == [(2, 2), (3, 3)]
    parts = [
        features[:, : 2 * PLACES].reshape(700, 2, PLACES),
        features[:, 2 * PLACES :].reshape(700, 3, PLACES),
    ]
    flat = [
        np.einsum("rc,fcp->frp", reduction, part).reshape(700, -1)
        for reduction, part in zip(projection.reductions, parts, strict=True)
    ]
    assert [part.var(axis=0).sum() for part in flat] == pytest.approx([1, 1], rel=1e-3), "maps weigh the same"
    together = np.concatenate(flat, axis=1)
    projected = together @ projection.weight + projection.bias
    assert projected.shape == (700, 20)
    assert projected.mean(axis=0) == pytest.approx(np.zeros(projected.shape[1]), abs=1e-3)
    assert np.linalg.norm(projected[1:] - projected[:-1], axis=1) == pytest.approx(
        np.linalg.norm(together[1:] - together[:-1], axis=1), rel=0.01
    )
    assert np.allclose(fit_projection(features, MAPS, (2, 3), dimension=20).weight, projection.weight)


def test_a_saved_projection_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedder.packs.insightface.PROJECTIONS", tmp_path)
    reductions = tuple(
        np.asfortranarray(DRAWS.standard_normal((2, count)), dtype=np.float32) for count in (5, 4)
    )
    weight = np.asfortranarray(DRAWS.standard_normal((16, 7)), dtype=np.float32)
    projection = Projection(MAPS, reductions, weight, np.ones(7, np.float32))
    projection.save(tmp_path / "mine.safetensors")
    read = load_projection("mine")
    assert read is not None
    assert read.maps == MAPS
    for ours, theirs in zip(read.reductions, reductions, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert read.weight == pytest.approx(weight, abs=float(np.abs(weight).max()) / 250), (
        "int8 with a scale a column"
    )
    assert read.bias == pytest.approx(projection.bias)
    assert load_projection("another") is None


def test_the_shipped_projection_is_orthonormal() -> None:
    projection = load_projection("w600k_mbf")
    assert projection is not None
    assert projection.weight.shape == (3 * 64 * PLACES, 512)
    assert projection.weight.T @ projection.weight == pytest.approx(np.eye(512), abs=3e-3)
    for reduction in projection.reductions:
        alike = reduction @ reduction.T
        assert alike / alike.max() == pytest.approx(np.eye(64), abs=1e-2)
