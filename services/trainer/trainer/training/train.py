"""Train a bank: data resident in memory, no loader, early stopping for each member by itself.

The random numbers of an epoch are derived from (seed, fold, epoch) and nothing else, so a job that is killed
and goes on from its last checkpoint gives the numbers of one that was not.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from agegender.heads.head import Classes, Task
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.training.bank import Bank
from trainer.training.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from trainer.training.config import EpochReport, OptimizerOptions, TrainingOptions
from trainer.training.data import Targets, augmented, class_years, drawn, make_targets
from trainer.training.device import CPU, TrainingDevice

Array = npt.NDArray[np.float32]

_WARM_UP = 0.05  # of all steps
_CHECKPOINT_SECONDS = 1.0
_VALIDATION_CHUNK = 4096
_EPOCH_SEEDS = 10_000  # beyond the numbers of members


@dataclass(frozen=True)
class TrainedBank:
    """tensors : as `agegender.heads` wants them. weights : as another bank can start from them.

    best_epochs : one a member, counted from 1. curve : mean training and validation loss of each epoch.
    """

    tensors: dict[str, Array]
    weights: dict[str, Array]
    best_epochs: list[int]
    curve: list[tuple[float, float | None]]


def train_bank(
    train: EmbeddingSet,
    validation: EmbeddingSet | int,
    options: TrainingOptions,
    fold: int,
    checkpoint: Path | None = None,
    tell: Callable[[EpochReport], None] = lambda report: None,
    machine: TrainingDevice = CPU,
    start: Mapping[str, Array] | None = None,
) -> TrainedBank:
    """Train `options.seeds` networks at once and keep each one's best epoch on the validation faces.

    validation : or, to train without, the epoch to end after; the learning rate's schedule stays the same.
    checkpoint : file to go on from, if it exists, and to write to.
    tell : called after each epoch; may raise to stop.
    start : `TrainedBank.weights` of a bank of the same architecture and as many members to start from.
    """
    device = machine.device
    layers = options.head.layers(train.space.dimension, options.outputs)
    bank = Bank(layers, [derived_seed(options.seed, fold, member) for member in range(options.seeds)])
    mean, std = train.embedding.mean(axis=0), train.embedding.std(axis=0) + 1e-6
    if start is not None:
        mean, std = bank.start_from(start)
    bank = bank.to(device)
    decay = options.optimizer.averaging
    average = (
        AveragedModel(bank, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None  # type: ignore[no-untyped-call]
    )
    validated = bank if average is None else average.module
    optimizer = _optimizer(bank, options.optimizer)

    faces = torch.tensor((train.embedding - mean) / std, device=device)
    mirrored = None
    if options.augmentation.mirrored and len(train.embedding_mirrored) == len(train):
        mirrored = torch.tensor((train.embedding_mirrored - mean) / std, device=device)
    targets = make_targets(train, options).to(device)
    judged = None
    if isinstance(validation, EmbeddingSet):
        judging = torch.tensor((validation.embedding - mean) / std, device=device)
        judged = judging, make_targets(validation, options).to(device)
    epochs = options.optimizer.epochs if isinstance(validation, EmbeddingSet) else validation

    state = TrainingState.fresh(bank)
    if checkpoint is not None and checkpoint.exists():
        state = read_checkpoint(checkpoint, bank, average, optimizer)
    written = time.monotonic()
    while state.epoch < epochs and not state.stopped.all():
        torch.manual_seed(derived_seed(options.seed, fold, _EPOCH_SEEDS + state.epoch))
        train_loss = _epoch(bank, average, optimizer, faces, mirrored, targets, options, state.epoch, machine)
        if judged is None:
            state.note_last(validated, train_loss)
        else:
            losses = _validation_losses(validated, *judged, options)
            state.note_epoch(validated, train_loss, losses, options.optimizer.patience)
        if checkpoint is not None and time.monotonic() - written >= _CHECKPOINT_SECONDS:
            write_checkpoint(checkpoint, bank, average, optimizer, state)
            written = time.monotonic()
        running = int((~state.stopped).sum())
        tell(EpochReport(state.epoch, epochs, *state.curve[-1], running))
    state.restore_best(bank)
    inputs = {
        "input.mean": np.tile(mean.astype(np.float32), (options.seeds, 1)),
        "input.std": np.tile(std.astype(np.float32), (options.seeds, 1)),
    }
    return TrainedBank(
        {**bank.head_tensors(), **inputs},
        {**bank.weight_tensors(), **inputs},
        [int(epoch) for epoch in state.best_epoch],
        state.curve,
    )


def _epoch(
    bank: Bank,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    faces: Tensor,
    mirrored: Tensor | None,
    targets: Targets,
    options: TrainingOptions,
    epoch: int,
    machine: TrainingDevice,
) -> float:
    """One pass, every member in its own order. Returns the mean loss."""
    bank.train()
    count, members = len(faces), options.seeds
    batch_size = min(options.optimizer.batch_size, count)
    steps = count // batch_size
    order = torch.stack([torch.randperm(count) for _ in range(members)]).to(faces.device)
    total = torch.zeros((), dtype=torch.float64)
    for step in range(steps):
        rate = _learning_rate(options.optimizer, epoch * steps + step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = order[:, step * batch_size : (step + 1) * batch_size]
        features, labels = augmented(drawn(faces, mirrored, index), targets.rows(index), options.augmentation)
        with machine.autocast():
            logits = bank(features)
        loss = face_losses(logits.float(), labels, options).mean(dim=1)
        optimizer.zero_grad()
        # Members share no weight, so the sum trains each by its own loss.
        torch.autograd.backward(loss.sum())
        optimizer.step()
        if average is not None:
            average.update_parameters(bank)
        total = total.to(loss.device) + loss.detach().mean()
    return float(total) / steps


@torch.no_grad()
def _validation_losses(bank: nn.Module, faces: Tensor, targets: Targets, options: TrainingOptions) -> Tensor:
    """Mean loss of each member [members]."""
    bank.eval()
    total = torch.zeros(options.seeds, device=faces.device)
    for start in range(0, len(faces), _VALIDATION_CHUNK):
        index = torch.arange(start, min(start + _VALIDATION_CHUNK, len(faces)), device=faces.device)
        index = index.expand(options.seeds, -1)
        total += face_losses(bank(faces[index]), targets.rows(index), options).sum(dim=1)
    return total.cpu() / len(faces)


def _optimizer(bank: Bank, options: OptimizerOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [
            {"params": list(bank.weights.values()), "weight_decay": options.weight_decay},
            {"params": list(bank.others.values()), "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        fused=True,  # reads and writes each weight once a step
    )


def _learning_rate(options: OptimizerOptions, step: int, steps_an_epoch: int) -> float:
    if options.schedule == "constant":
        return options.learning_rate
    if options.schedule == "exponential":
        return options.learning_rate * options.gamma ** (step // steps_an_epoch)
    steps = options.epochs * steps_an_epoch
    warm = min(1.0, (step + 1) / max(1.0, _WARM_UP * steps))
    return options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def derived_seed(*numbers: int) -> int:
    """One seed from several numbers, without the collisions of adding them."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])


def face_losses(logits: Tensor, batch: Targets, options: TrainingOptions) -> Tensor:
    """Loss [members, faces] of logits [members, faces, outputs]; unknown labels add nothing.

    `batch` holds tensors [members, faces, …], since each member draws its own batch.
    """
    total = torch.zeros(logits.shape[:2], device=logits.device)
    start = 0
    for task, classes in options.tasks:
        own = logits[..., start : start + classes.outputs]
        start += classes.outputs
        if task is Task.AGE:
            total = total + _age_loss(own, batch, options, classes)
        else:
            log_probabilities = torch.log_softmax(own, dim=-1)
            total = total - options.loss.gender_weight * (batch.gender * log_probabilities).sum(dim=-1)
    return total


def _age_loss(logits: Tensor, batch: Targets, options: TrainingOptions, classes: Classes) -> Tensor:
    """Cross entropy with the label's distribution; for an interval, the likelihood of lying in it."""
    log_probabilities = torch.log_softmax(logits, dim=-1)
    exact = -(batch.age * log_probabilities).sum(dim=-1)
    masked = torch.where(batch.age_set > 0, log_probabilities, -torch.inf)
    interval = -torch.logsumexp(masked, dim=-1)
    loss = torch.where(batch.age_exact, exact, interval)
    if options.loss.mean_weight > 0:
        years = class_years(classes).to(logits.device)
        error = (log_probabilities.exp() @ years - batch.age_years).abs()
        loss = loss + options.loss.mean_weight * torch.where(batch.age_exact, error, 0.0)
    return torch.where(batch.age_known, loss, 0.0)
