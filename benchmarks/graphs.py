"""Run the converted `human` graphs in ONNX Runtime: as converted, layout-optimised, and in INT8.

INT8 is a candidate only if embeddings keep a cosine of 0.995; then the heads' accuracy decides.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnxruntime
from agegender.environment import available_cpus
from agegender.images import ImageLimits, decode
from embedder.alignment import crop, similarity, template
from embedder.packs.pack import Pack
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.packs import HUMAN, human
from benchmarks.processor import has_vnni
from benchmarks.table import Goal, Row, compared
from tools.stack import PHOTOGRAPH, RESEARCH_DATA

Array = npt.NDArray[np.float32]

GRAPHS = {"faceres-deep": 224, "mobileface": 112}
COSINE, BATCH, CALIBRATED, JUDGED = 0.995, 8, 64, 200
_LEVELS = onnxruntime.GraphOptimizationLevel


def rows() -> list[Row]:
    crops = _crops(human())
    with TemporaryDirectory() as folder:
        return [
            row for graph, size in GRAPHS.items() for row in _graph(graph, _sized(crops, size), Path(folder))
        ]


def _graph(graph: str, images: Array, folder: Path) -> Iterator[Row]:
    model = HUMAN / f"{graph}.onnx"
    batch = images[:BATCH]
    as_converted = _session(model, _LEVELS.ORT_DISABLE_ALL)
    optimised = _session(model, _LEVELS.ORT_ENABLE_ALL)
    yield compared(
        f"`{graph}`, layout-optimised (what is served)",
        "as converted, nothing optimised",
        1,
        lambda: _features(optimised, batch),
        lambda: _features(as_converted, batch),
        7,
        f"batches of {BATCH}; ONNX Runtime's NCHWc layout, convolutions fused with what follows",
    )
    quantised = _session(_int8(model, images[:CALIBRATED], folder), _LEVELS.ORT_ENABLE_ALL)
    yield compared(
        f"`{graph}`, INT8",
        "layout-optimised",
        None,
        lambda: _features(quantised, batch),
        lambda: _features(optimised, batch),
        7,
        f"static, per channel, QDQ, weights of {8 if has_vnni() else 7} bits",
    )
    exact, rounded = _features(optimised, images[-JUDGED:]), _features(quantised, images[-JUDGED:])
    cosines = (exact * rounded).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    yield Row(
        f"`{graph}`, INT8: cosine to the exact embedding",
        f"{len(cosines)} faces, 5th percentile",
        float(np.quantile(cosines, 0.05)),
        Goal(COSINE),
        "",
        note=f"median {np.median(cosines):.4f}",
        if_missed="so it is not served, whatever its speed",
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


class _Crops(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Array) -> None:
        self._batches = iter(np.array_split(images, max(1, len(images) // BATCH)))

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def _int8(model: Path, images: Array, folder: Path) -> Path:
    """Quantise a graph. Without VNNI, sums of 8-bit products overflow their 16 bits, so weights have 7 bits.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "reduce_range"
    """
    prepared, quantised = folder / f"prepared-{model.name}", folder / f"int8-{model.name}"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(quantised),
        _Crops(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=not has_vnni(),
    )
    return quantised


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
        for name in names[:: len(names) // (CALIBRATED + JUDGED)]:
            file = archive.extractfile(name)
            assert file is not None
            yield decode(file.read(), ImageLimits())


def _mirrored() -> list[npt.NDArray[np.uint8]]:
    pixels = decode(PHOTOGRAPH.read_bytes(), ImageLimits())
    return [pixels, np.ascontiguousarray(pixels[:, ::-1])]


def _sized(crops: npt.NDArray[np.uint8], size: int) -> Array:
    step = crops.shape[1] // size
    return crops[:, ::step, ::step].astype(np.float32)
