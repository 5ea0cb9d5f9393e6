"""Train a bank: data resident in memory, no loader, early stopping for each member by itself.

The random numbers of an epoch are derived from (seed, fold, epoch) and nothing else, so a job that is killed
and goes on from its last checkpoint gives the numbers of one that was not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from agegender.datasets import EmbeddingSet
from torch import Tensor

from trainer.training.bank import Bank
from trainer.training.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from trainer.training.config import OptimizerOptions, TrainingOptions
from trainer.training.losses import face_losses
from trainer.training.targets import Targets, make_targets

Array = npt.NDArray[np.float32]

_WARM_UP = 0.05  # of all steps
_CHECKPOINT_SECONDS = 1.0
_VALIDATION_CHUNK = 4096


@dataclass(frozen=True)
class EpochReport:
    """Told after each epoch. Losses are means over the members."""

    epoch: int
    epochs: int
    train_loss: float
    validation_loss: float
    members_running: int


@dataclass(frozen=True)
class TrainedBank:
    """tensors : as `agegender.heads` wants them. best_epochs : one a member, counted from 1."""

    tensors: dict[str, Array]
    best_epochs: list[int]


def train_bank(
    train: EmbeddingSet,
    validation: EmbeddingSet,
    options: TrainingOptions,
    fold: int,
    checkpoint: Path | None = None,
    tell: Callable[[EpochReport], None] = lambda report: None,
    device: str = "cpu",
) -> TrainedBank:
    """Train `options.seeds` networks at once and keep each one's best epoch on the validation faces.

    checkpoint : file to go on from, if it exists, and to write to.
    tell : called after each epoch; may raise to stop.
    """
    layers = options.head.layers(train.space.dimension, options.outputs)
    seeds = [_derived(options.seed, fold, member) for member in range(options.seeds)]
    bank = Bank(layers, seeds).to(device)
    optimizer = _optimizer(bank, options.optimizer)
    mean, std = train.embedding.mean(axis=0), train.embedding.std(axis=0) + 1e-6
    faces = torch.tensor((train.embedding - mean) / std, device=device)
    mirrored = _mirrored(train, mean, std, options, device)
    targets = make_targets(train, options).to(device)
    validation_faces = torch.tensor((validation.embedding - mean) / std, device=device)
    validation_targets = make_targets(validation, options).to(device)

    state = TrainingState.fresh(bank)
    if checkpoint is not None and checkpoint.exists():
        state = read_checkpoint(checkpoint, bank, optimizer)
    written = time.monotonic()
    while state.epoch < options.optimizer.epochs and not state.stopped.all():
        torch.manual_seed(_derived(options.seed, fold, 10_000 + state.epoch))
        train_loss = _epoch(bank, optimizer, faces, mirrored, targets, options, state.epoch)
        losses = _validation_losses(bank, validation_faces, validation_targets, options)
        state.note_epoch(bank, losses, options.optimizer.patience)
        if checkpoint is not None and time.monotonic() - written >= _CHECKPOINT_SECONDS:
            write_checkpoint(checkpoint, bank, optimizer, state)
            written = time.monotonic()
        running = int((~state.stopped).sum())
        tell(EpochReport(state.epoch, options.optimizer.epochs, train_loss, float(losses.mean()), running))
    state.restore_best(bank)
    members = options.seeds
    return TrainedBank(
        {
            **bank.head_tensors(),
            "input.mean": np.tile(mean.astype(np.float32), (members, 1)),
            "input.std": np.tile(std.astype(np.float32), (members, 1)),
        },
        [int(epoch) for epoch in state.best_epoch],
    )


def _epoch(
    bank: Bank,
    optimizer: torch.optim.Optimizer,
    faces: Tensor,
    mirrored: Tensor | None,
    targets: Targets,
    options: TrainingOptions,
    epoch: int,
) -> float:
    """One pass, every member in its own order. Returns the mean loss."""
    bank.train()
    count, members = len(faces), options.seeds
    batch_size = min(options.optimizer.batch_size, count)
    steps = count // batch_size
    order = torch.stack([torch.randperm(count) for _ in range(members)]).to(faces.device)
    total = 0.0
    for step in range(steps):
        rate = _learning_rate(options.optimizer, epoch * steps + step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = order[:, step * batch_size : (step + 1) * batch_size]
        features, labels = _augmented(_drawn(faces, mirrored, index), _rows(targets, index), options)
        loss = face_losses(bank(features), labels, options).mean(dim=1)
        optimizer.zero_grad()
        # Members share no weight, so the sum trains each by its own loss.
        torch.autograd.backward(loss.sum())
        optimizer.step()
        total += float(loss.detach().mean())
    return total / steps


def _drawn(faces: Tensor, mirrored: Tensor | None, index: Tensor) -> Tensor:
    features = faces[index]
    if mirrored is not None:
        mirror = torch.rand(index.shape, device=faces.device) < 0.5
        features = torch.where(mirror[..., None], mirrored[index], features)
    return features


def _rows(targets: Targets, index: Tensor) -> Targets:
    return Targets(**{name: tensor[index] for name, tensor in vars(targets).items()})


def _augmented(features: Tensor, labels: Targets, options: TrainingOptions) -> tuple[Tensor, Targets]:
    wanted = options.augmentation
    if wanted.noise > 0:
        features = features + wanted.noise * torch.randn_like(features)
    if wanted.mixup > 0:
        share = torch.distributions.Beta(wanted.mixup, wanted.mixup).sample(features.shape[:2])
        share = share.to(features.device)
        partner = torch.randperm(features.shape[1], device=features.device)
        # Only faces whose labels are both exact and known can be mixed.
        both = labels.age_exact & labels.age_known & (labels.gender.sum(dim=-1) > 0)
        share = torch.where(both & both[:, partner], share, 1.0)

        def mixed(values: Tensor) -> Tensor:
            weight = share.reshape(share.shape + (1,) * (values.ndim - 2))
            return weight * values + (1 - weight) * values[:, partner]

        features = mixed(features)
        labels = Targets(
            age=mixed(labels.age),
            age_set=labels.age_set,
            age_exact=labels.age_exact,
            age_known=labels.age_known,
            age_years=mixed(labels.age_years),
            gender=mixed(labels.gender),
        )
    return features, labels


@torch.no_grad()
def _validation_losses(bank: Bank, faces: Tensor, targets: Targets, options: TrainingOptions) -> Tensor:
    """Mean loss of each member [members]."""
    bank.eval()
    total = torch.zeros(options.seeds, device=faces.device)
    for start in range(0, len(faces), _VALIDATION_CHUNK):
        index = torch.arange(start, min(start + _VALIDATION_CHUNK, len(faces)), device=faces.device)
        index = index.expand(options.seeds, -1)
        total += face_losses(bank(faces[index]), _rows(targets, index), options).sum(dim=1)
    return total.cpu() / len(faces)


def _optimizer(bank: Bank, options: OptimizerOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [
            {"params": list(bank.weights.values()), "weight_decay": options.weight_decay},
            {"params": list(bank.others.values()), "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
    )


def _learning_rate(options: OptimizerOptions, step: int, steps_an_epoch: int) -> float:
    if options.schedule == "constant":
        return options.learning_rate
    if options.schedule == "exponential":
        return options.learning_rate * options.gamma ** (step // steps_an_epoch)
    steps = options.epochs * steps_an_epoch
    warm = min(1.0, (step + 1) / max(1.0, _WARM_UP * steps))
    return options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def _mirrored(
    faces: EmbeddingSet, mean: Array, std: Array, options: TrainingOptions, device: str
) -> Tensor | None:
    if not options.augmentation.mirrored or len(faces.embedding_mirrored) != len(faces):
        return None
    return torch.tensor((faces.embedding_mirrored - mean) / std, device=device)


def _derived(*numbers: int) -> int:
    """One seed from several numbers, without the collisions of adding them."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])
