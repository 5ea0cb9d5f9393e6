"""Run the converted graphs of the `human` packs in ONNX Runtime: as converted, layout-optimised, and in INT8.

A graph in INT8 is an embedder of its own: the accuracy of heads trained on it decides whether it is served,
and not how near it is to the exact one (docs/results/embedding-experiments.md).
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from agegender.environment import available_cpus
from agegender.images import ImageLimits, decode
from embedder.alignment import crop, similarity, template
from embedder.packs.pack import Pack

from benchmarks.packs import HUMAN, human
from benchmarks.table import Row, compared
from tools.stack import PHOTOGRAPH, RESEARCH_DATA

Array = npt.NDArray[np.float32]

GRAPHS = {"faceres-deep": 224, "mobileface": 112}
BATCH, JUDGED = 8, 200
_LEVELS = onnxruntime.GraphOptimizationLevel


def rows() -> list[Row]:
    crops = _crops(human())
    return [row for graph, size in GRAPHS.items() for row in _graph(graph, _sized(crops, size))]


def _graph(graph: str, images: Array) -> Iterator[Row]:
    batch = images[:BATCH]
    as_converted = _session(HUMAN / f"{graph}.onnx", _LEVELS.ORT_DISABLE_ALL)
    optimised = _session(HUMAN / f"{graph}.onnx", _LEVELS.ORT_ENABLE_ALL)
    yield compared(
        f"`{graph}`, layout-optimised (what is served)",
        "as converted, nothing optimised",
        1,
        lambda: _features(optimised, batch),
        lambda: _features(as_converted, batch),
        7,
        f"batches of {BATCH}; ONNX Runtime's NCHWc layout, convolutions fused with what follows",
    )
    int8 = HUMAN / f"{graph}-int8.onnx"
    if not int8.exists():
        return
    quantised = _session(int8, _LEVELS.ORT_ENABLE_ALL)
    yield compared(
        f"`{graph}`, INT8 (what `human-3` serves)",
        "layout-optimised",
        1.5,
        lambda: _features(quantised, batch),
        lambda: _features(optimised, batch),
        7,
        "per channel, QDQ; two largest weights of a channel at most 128 together",
    )
    exact, rounded = _features(optimised, images[-JUDGED:]), _features(quantised, images[-JUDGED:])
    cosines = (exact * rounded).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    yield Row(
        f"`{graph}`, INT8: cosine to the exact embedding",
        f"{len(cosines)} faces, 5th percentile",
        float(np.quantile(cosines, 0.05)),
        None,
        "",
        note=f"median {np.median(cosines):.4f}",
    )


def _session(model: Path, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _features(session: onnxruntime.InferenceSession, images: Array) -> Array:
    batches = [
        session.run(["features"], {"image": images[start : start + BATCH]})[0]
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(batches)


def _crops(pack: Pack) -> npt.NDArray[np.uint8]:
    """Return aligned faces of 224 pixels in BGR, from UTKFace if available, otherwise from one photograph."""
    images = list(_utkface()) if RESEARCH_DATA.is_dir() else _mirrored()
    places = template(224, 1.0)
    return np.stack(
        [
            crop(image, similarity(landmarks, places), 224)[..., ::-1]
            for image in images
            for landmarks in pack.detect([image])[0].landmarks[:6]
        ]
    )


def _utkface() -> Iterator[npt.NDArray[np.uint8]]:
    with tarfile.open(RESEARCH_DATA / "utkface.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
        for name in names[:: len(names) // JUDGED]:
            file = archive.extractfile(name)
            assert file is not None
            yield decode(file.read(), ImageLimits())


def _mirrored() -> list[npt.NDArray[np.uint8]]:
    pixels = decode(PHOTOGRAPH.read_bytes(), ImageLimits())
    return [pixels, np.ascontiguousarray(pixels[:, ::-1])]


def _sized(crops: npt.NDArray[np.uint8], size: int) -> Array:
    step = crops.shape[1] // size
    return crops[:, ::step, ::step].astype(np.float32)
