"""A bank: members of an ensemble with one architecture, trained as one batched computation on a device.

Its checkpoint holds the state of training, so that a killed job resumes from it.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from agegender.files import write_safetensors
from agegender.heads.networks import Activate, Dropout, Layer, Linear, Norm, flat
from safetensors.numpy import load as load_safetensors
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from trainer.settings import Device

NORM_EPSILON = 1e-5
NORM_MOMENTUM = 0.1


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


class Bank(nn.Module):
    """Networks with input [members, faces, inputs] and output [members, faces, outputs].

    seeds : one per member, for its initial weights, so that a member does not depend on the others.
    """

    def __init__(self, layers: tuple[Layer, ...], seeds: list[int]) -> None:
        super().__init__()
        self.layers = layers
        members = len(seeds)
        self.weights = nn.ParameterDict()
        self.others = nn.ParameterDict()  # biases and norms, which have no weight decay
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for layer in flat(layers):
            if isinstance(layer, Linear):
                shape = (layer.inputs, layer.outputs)
                bound = math.sqrt(2 / layer.inputs)  # He et al., arXiv 1502.01852
                draws = [torch.randn(shape, generator=generator) * bound for generator in generators]
                self.weights[_key(layer.name)] = nn.Parameter(torch.stack(draws))
                self.others[_key(layer.name) + "-bias"] = nn.Parameter(torch.zeros(members, layer.outputs))
            elif isinstance(layer, Norm):
                key = _key(layer.name)
                self.others[key + "-gain"] = nn.Parameter(torch.ones(members, layer.features))
                self.others[key + "-shift"] = nn.Parameter(torch.zeros(members, layer.features))
                self.register_buffer(key + "-mean", torch.zeros(members, layer.features))
                self.register_buffer(key + "-variance", torch.ones(members, layer.features))

    def forward(self, features: Tensor) -> Tensor:
        return self._run(self.layers, features)

    def _run(self, layers: tuple[Layer, ...], features: Tensor) -> Tensor:
        for layer in layers:
            match layer:
                case Linear(name=name):
                    bias = self.others[_key(name) + "-bias"][:, None]
                    features = torch.baddbmm(bias, features, self.weights[_key(name)])
                case Norm(name=name):
                    features = self._normalised(_key(name), features)
                case Activate(function="relu"):
                    features = torch.relu(features)
                case Activate():
                    features = nn.functional.silu(features)
                case Dropout(probability=probability):
                    features = nn.functional.dropout(features, probability, self.training)
                case _:
                    features = features + self._run(layer.body, features)
        return features

    def _normalised(self, key: str, features: Tensor) -> Tensor:
        mean, variance = self.get_buffer(key + "-mean"), self.get_buffer(key + "-variance")
        gain, shift = self.others[key + "-gain"], self.others[key + "-shift"]
        if self.training:
            batch_mean = features.mean(dim=1)
            features = features - batch_mean[:, None]
            batch_variance = features.square().mean(dim=1)  # torch's `var` takes more than ten times as long
            with torch.no_grad():
                mean.lerp_(batch_mean, NORM_MOMENTUM)
                variance.lerp_(batch_variance, NORM_MOMENTUM)
            scale = gain * torch.rsqrt(batch_variance + NORM_EPSILON)
        else:
            scale = gain * torch.rsqrt(variance + NORM_EPSILON)
            shift = shift - mean * scale
        return torch.addcmul(shift[:, None], features, scale[:, None])

    def head_tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the weights as `agegender.heads` reads them: norms folded, without the mean and std."""
        tensors: dict[str, Tensor] = {}
        for layer in flat(self.layers):
            if isinstance(layer, Linear):
                tensors[f"{layer.name}.weight"] = self.weights[_key(layer.name)]
                tensors[f"{layer.name}.bias"] = self.others[_key(layer.name) + "-bias"]
            elif isinstance(layer, Norm):
                key = _key(layer.name)
                scale = self.others[key + "-gain"] * torch.rsqrt(
                    self.get_buffer(key + "-variance") + NORM_EPSILON
                )
                tensors[f"{layer.name}.scale"] = scale
                tensors[f"{layer.name}.shift"] = (
                    self.others[key + "-shift"] - self.get_buffer(key + "-mean") * scale
                )
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}

    def weight_tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the weights as they are trained, norms not folded, for `load_weights`."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.state_dict().items()}

    def load_weights(
        self, weights: Mapping[str, npt.NDArray[np.float32]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Load the weights of another bank, for a warm start. Returns the input mean and std they belong to.

        Raises ValueError if a shape differs.
        """
        for name, value in self.state_dict().items():
            given = weights[name].shape if name in weights else "absent"
            if given != tuple(value.shape):
                raise ValueError(f"warm start: {name} has shape {given}; expected {tuple(value.shape)}")
            value.copy_(torch.tensor(weights[name]))
        return weights["input.mean"][0], weights["input.std"][0]


def _key(name: str) -> str:
    return name.replace(".", "-")  # torch's containers allow no dots in names


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
