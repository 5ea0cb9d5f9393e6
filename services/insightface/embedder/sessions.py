"""ONNX Runtime sessions, with as many threads as the container really has CPUs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from embedder.prelu import without_prelu

Array = npt.NDArray[np.float32]


class Progress:
    """Counts the steps of this process's work, so that a long request differs from models that hang."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self) -> None:
        self.steps += 1


PROGRESS = Progress()


def open_session(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Each model has threads of its own, which would spin on after its run, on the cores of the next model.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    model = without_prelu(model)
    available = onnxruntime.get_available_providers()
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model),
        options,
        providers=[name for name in wanted if name in available],
    )


def pictures_at_once(session: onnxruntime.InferenceSession) -> int:
    """A GPU wants many. On a CPU, what passes between the layers of a few stays in the cache.

    8 take less time than 64, and a tenth of the memory: docs/embedding.md, `python -m benchmarks embedding`.
    """
    return 64 if "CUDAExecutionProvider" in session.get_providers() else 8


class Network:
    """A loaded model of one input, run in batches of bounded size so that memory is bounded too."""

    def __init__(self, model: Path | bytes, threads: int, outputs: Sequence[str] | None = None) -> None:
        self._session = open_session(model, threads)
        self._input = self._session.get_inputs()[0].name
        self._outputs = list(outputs) if outputs else [output.name for output in self._session.get_outputs()]
        self._batch = pictures_at_once(self._session)

    def __call__(self, images: npt.NDArray[np.uint8] | Array) -> list[Array]:
        """Run on images [n, ...], scaled as the model wants them; every output has n rows."""
        parts = []
        for start in range(0, len(images), self._batch):
            batch = images[start : start + self._batch].astype(np.float32, copy=False)
            parts.append(self._session.run(self._outputs, {self._input: batch}))
            PROGRESS.step()
        return [np.concatenate(column) for column in zip(*parts, strict=True)]
