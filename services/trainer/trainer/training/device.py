"""Where banks are trained: CPU threads, or a GPU where there is one."""

import os
from dataclasses import dataclass

import torch

from trainer.settings import Device


@dataclass(frozen=True)
class TrainingDevice:
    """device : cpu, or cuda with or without a number. amp : forward passes in bfloat16, on a GPU only."""

    device: str = "cpu"
    amp: bool = False

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.amp and self.device == "cuda")


CPU = TrainingDevice()


def prepare_device(device: Device, amp: bool, threads: int) -> TrainingDevice:
    """Set torch up for training that gives the same numbers each time on the same kind of device.

    Raises RuntimeError where `cuda` is asked for and there is none; `auto` takes the CPU then.
    """
    # cuBLAS reads it at its start; with it, its results are the same each time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise RuntimeError("TRAINER_DEVICE is cuda, but torch finds no GPU; see to its driver, or take auto.")
    return TrainingDevice("cuda", amp) if there and device != "cpu" else CPU
