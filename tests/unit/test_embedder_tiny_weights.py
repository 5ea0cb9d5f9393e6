"""Weights that float32 cannot tell from zero are zero, and no result changes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from embedder.sessions import faster
from onnx import numpy_helper

from tests.support.packs import human_pack_dir


def outputs(model: Path | bytes, given: np.ndarray) -> list[np.ndarray]:
    path = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: given}))


@pytest.mark.parametrize(("name", "shape"), [("dlib-age", (2, 3, 64, 64)), ("mobileface", (2, 112, 112, 3))])
def test_network_computes_the_same_without_tiny_weights(name: str, shape: tuple[int, ...]) -> None:
    path = human_pack_dir() / f"{name}.onnx"
    changed = faster(path)
    assert isinstance(changed, bytes)
    weights = [numpy_helper.to_array(one) for one in onnx.load_from_string(changed).graph.initializer]
    assert not any(((one != 0) & (np.abs(one) < 1e-20)).any() for one in weights if one.dtype == np.float32)
    given = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    for before, after in zip(outputs(path, given), outputs(changed, given), strict=True):
        np.testing.assert_array_equal(before, after)


def test_model_that_has_neither_is_kept_as_it_is() -> None:
    path = human_pack_dir() / "yunet.onnx"
    assert faster(path) is path
    content = path.read_bytes()
    assert faster(content) is content
