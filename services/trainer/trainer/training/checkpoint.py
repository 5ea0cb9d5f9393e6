"""Write and read the state of training, so that a killed job resumes from its last checkpoint."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from agegender.files import write_safetensors
from safetensors.numpy import load as load_safetensors
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from trainer.training.bank import Bank


@dataclass
class TrainingState:
    """Progress of training a bank.

    Attributes
    ----------
    epoch : number of finished epochs.
    best_loss, best_epoch : best validation loss of each member and its epoch [members].
    stopped : whether a member has stopped early [members].
    best : weights of each member's best epoch.
    curve : mean training and validation loss of every epoch so far; None without validation.
    """

    epoch: int
    best_loss: Tensor
    best_epoch: Tensor
    stopped: Tensor
    best: dict[str, Tensor]
    curve: list[tuple[float, float | None]]

    @classmethod
    def fresh(cls, bank: Bank) -> "TrainingState":
        weights = {name: value.detach().clone() for name, value in bank.state_dict().items()}
        members = len(next(iter(weights.values())))
        return cls(
            0,
            torch.full((members,), torch.inf),
            torch.zeros(members, dtype=torch.int64),
            torch.zeros(members, dtype=torch.bool),
            weights,
            [],
        )

    def record_epoch(self, bank: nn.Module, train_loss: float, losses: Tensor, patience: int) -> None:
        """Add an epoch: keep the members that improved, stop those that did not for `patience` epochs.

        bank : networks that were validated. losses : validation loss of each member [members].
        """
        self.epoch += 1
        self.curve.append((train_loss, float(losses.mean())))
        better = (losses < self.best_loss) & ~self.stopped
        self.best_loss = torch.where(better, losses, self.best_loss)
        self.best_epoch = torch.where(better, torch.tensor(self.epoch), self.best_epoch)
        for name, value in bank.state_dict().items():
            self.best[name][better] = value.detach()[better]
        self.stopped |= self.epoch - self.best_epoch >= patience

    def record_last(self, bank: nn.Module, train_loss: float) -> None:
        """Add an epoch without validation: keep all members as they are."""
        self.epoch += 1
        self.curve.append((train_loss, None))
        self.best_epoch = torch.full_like(self.best_epoch, self.epoch)
        for name, value in bank.state_dict().items():
            self.best[name].copy_(value.detach())

    def restore_best(self, bank: Bank) -> None:
        bank.load_state_dict(self.best)


def write_checkpoint(
    path: Path,
    bank: Bank,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
) -> None:
    tensors = {f"bank.{name}": value for name, value in bank.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    tensors |= {
        "state.epoch": torch.tensor(state.epoch),
        "state.best_loss": state.best_loss,
        "state.best_epoch": state.best_epoch,
        "state.stopped": state.stopped,
        "state.curve": torch.tensor(
            [(train, math.nan if validation is None else validation) for train, validation in state.curve],
            dtype=torch.float64,
        ).reshape(-1, 2),
    }
    write_safetensors(path, {name: value.detach().cpu().numpy() for name, value in tensors.items()})


def read_checkpoint(
    path: Path, bank: Bank, average: AveragedModel | None, optimizer: torch.optim.Optimizer
) -> TrainingState:
    """Load a checkpoint into bank, average and optimizer, and return the state."""
    tensors = {
        name: torch.tensor(np.asarray(value)) for name, value in load_safetensors(path.read_bytes()).items()
    }

    def tensors_of(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
        }

    bank.load_state_dict(tensors_of("bank."))
    if average is not None:
        average.load_state_dict(tensors_of("average."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors_of("optimizer.").items():
        index, moment = name.split(".", 1)
        moments.setdefault(int(index), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state = tensors_of("state.")
    device = next(iter(bank.state_dict().values())).device
    return TrainingState(
        int(state["epoch"]),
        state["best_loss"],
        state["best_epoch"],
        state["stopped"],
        {name: value.to(device) for name, value in tensors_of("best.").items()},
        [
            (train, None if math.isnan(validation) else validation)
            for train, validation in state["curve"].tolist()
        ],
    )
