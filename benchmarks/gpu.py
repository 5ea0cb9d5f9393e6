"""Compare a GPU, if there is one, with the CPU: training and embedding, as absolute values."""

import numpy as np
import onnxruntime
import torch

from benchmarks.packs import HUMAN
from benchmarks.table import Row, seconds_of
from benchmarks.training import FACES, SEEDS, train

BATCH, ROUNDS = 64, 20


def rows() -> list[Row]:
    if not torch.cuda.is_available():
        return [Row("on a GPU: bank training, embedding batches", "the CPU", None, note="no GPU")]
    return [_training(), _embedding()]


def _training() -> Row:
    train(FACES, SEEDS, device="cuda")  # warm
    on_gpu = seconds_of(lambda: train(FACES, SEEDS, device="cuda"))
    on_cpu = seconds_of(lambda: train(FACES, SEEDS))
    return Row(
        f"bank of {SEEDS} of the original's ResMLP on {torch.cuda.get_device_name()}, one epoch",
        "the CPU",
        on_gpu,
        None,
        " s",
        {"ours": on_gpu, "theirs": on_cpu},
        f"{on_cpu:.1f} s on the CPU",
    )


def _embedding() -> Row:
    what = f"`faceres-deep` on {torch.cuda.get_device_name()}"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return Row(what, "the CPU", None, note="this ONNX Runtime is built without CUDA")
    images = np.random.default_rng(0).random((BATCH, 224, 224, 3), np.float32) * 255
    rates = {}
    for provider in ("CUDAExecutionProvider", "CPUExecutionProvider"):
        session = onnxruntime.InferenceSession(HUMAN / "faceres-deep.onnx", providers=[provider])
        session.run(["features"], {"image": images})
        seconds = seconds_of(
            lambda s=session: [s.run(["features"], {"image": images}) for _ in range(ROUNDS)]  # type: ignore[misc]
        )
        rates[provider] = BATCH * ROUNDS / seconds
    return Row(
        f"{what}, batches of {BATCH}",
        "the CPU",
        rates["CUDAExecutionProvider"],
        None,
        " faces/s",
        note=f"{rates['CPUExecutionProvider']:.0f} faces/s on the CPU",
    )
