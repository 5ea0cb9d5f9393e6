"""The device that banks are trained on: CPU threads, or a GPU if there is one."""

import os
from dataclasses import dataclass

import torch

from trainer.settings import Device


@dataclass(frozen=True)
class TrainingDevice:
    """name : ``cpu``, or ``cuda`` with or without a number. amp : forward passes in bfloat16 if on a GPU."""

    name: str = "cpu"
    amp: bool = False

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.name, torch.bfloat16, enabled=self.amp and self.name == "cuda")


CPU = TrainingDevice()


def prepare_device(device: Device, amp: bool, threads: int) -> TrainingDevice:
    """Set torch up so that training gives the same numbers every time on the same type of device.

    device : ``auto`` uses the CPU if there is no GPU. Raises RuntimeError for ``cuda`` without a GPU.
    """
    # cuBLAS reads this when it starts; its results are reproducible only with it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise RuntimeError("TRAINER_DEVICE is cuda, but torch finds no GPU. Check its driver, or use auto.")
    return TrainingDevice("cuda", amp) if has_gpu and device != "cpu" else CPU
