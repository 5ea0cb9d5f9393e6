"""Train a bank of networks, all data resident on the device, with early stopping for each member.

The random numbers of an epoch are derived from (seed, fold, epoch) alone, so a resumed job reproduces an
uninterrupted one exactly.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from agegender.heads.calibration import floored_std
from agegender.heads.head import Classes, Task
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.training.bank import CPU, Bank, TrainingDevice, TrainingState, read_checkpoint, write_checkpoint
from trainer.training.config import EpochReport, OptimizerOptions, TrainingOptions
from trainer.training.data import Targets, augment, class_years, draw, make_targets

Array = npt.NDArray[np.float32]

_EPSILON = 1e-6  # added to every standard deviation, as earlier releases did, for the same numbers
_WARM_UP = 0.05  # of all steps
_CHECKPOINT_SECONDS = 1.0
_VALIDATION_CHUNK = 4096
_EPOCH_SEEDS = 10_000  # above the numbers of members, whose seeds initialise the weights


def ignore_epoch(report: EpochReport) -> None:
    """Do nothing after an epoch."""


@dataclass(frozen=True)
class TrainedBank:
    """Result of training a bank.

    Attributes
    ----------
    tensors : the members' best epochs as `agegender.heads` reads them, norms folded.
    weights : the same as `Bank.load_weights` reads them, for a warm start.
    best_epochs : one per member, counted from 1.
    curve : mean training and validation loss of each epoch; None without validation.
    """

    tensors: dict[str, Array]
    weights: dict[str, Array]
    best_epochs: list[int]
    curve: list[tuple[float, float | None]]


@dataclass(frozen=True)
class _Training:
    """State shared by all epochs: the networks, the optimizer, and the training faces on the device.

    average : moving average of the bank's weights, if the options ask for one.
    mean, std : of the training embeddings [dimension], `floored_std`; inputs are standardised with them.
    """

    bank: Bank
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    mean: Array
    std: Array
    faces: Tensor
    mirrored: Tensor | None
    targets: Targets
    options: TrainingOptions
    device: TrainingDevice

    @property
    def evaluated(self) -> nn.Module:
        """Return the networks that are validated and kept: the moving average, if there is one."""
        return self.bank if self.average is None else self.average.module


def train_bank(
    train: EmbeddingSet,
    validation: EmbeddingSet,
    options: TrainingOptions,
    fold: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = ignore_epoch,
    device: TrainingDevice = CPU,
    warm_start: Mapping[str, Array] | None = None,
) -> TrainedBank:
    """Train `options.seeds` networks at once; keep each one's best epoch on the validation faces.

    Parameters
    ----------
    fold : number from which the random numbers are derived, with `options.seed`.
    checkpoint : file to resume from, if it exists, and to write.
    on_epoch : called after each epoch; may raise to stop.
    warm_start : `TrainedBank.weights` of a bank of the same architecture and size.
    """
    training = _prepared(train, options, fold, device, warm_start)
    faces = torch.tensor((validation.embedding - training.mean) / training.std, device=device.name)
    targets = make_targets(validation, options).to(device.name)

    def record(state: TrainingState, train_loss: float) -> None:
        losses = _validation_losses(training.evaluated, faces, targets, options)
        state.record_epoch(training.evaluated, train_loss, losses, options.optimizer.patience)

    return _run(training, options.optimizer.epochs, fold, record, checkpoint, on_epoch)


def train_without_validation(
    train: EmbeddingSet,
    epochs: int,
    options: TrainingOptions,
    fold: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = ignore_epoch,
    device: TrainingDevice = CPU,
    warm_start: Mapping[str, Array] | None = None,
) -> TrainedBank:
    """Train on all of `train` for a fixed number of epochs and keep the last one.

    The learning rate's schedule is that of `options.optimizer.epochs`, as in `train_bank`, whose other
    parameters are the same.
    """
    training = _prepared(train, options, fold, device, warm_start)

    def record(state: TrainingState, train_loss: float) -> None:
        state.record_last(training.evaluated, train_loss)

    return _run(training, epochs, fold, record, checkpoint, on_epoch)


def derived_seed(*numbers: int) -> int:
    """Return one seed from several numbers, without the collisions of adding them."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])


def _prepared(
    train: EmbeddingSet,
    options: TrainingOptions,
    fold: int,
    device: TrainingDevice,
    warm_start: Mapping[str, Array] | None,
) -> _Training:
    layers = options.head.layers(train.space.dimension, options.outputs)
    bank = Bank(layers, [derived_seed(options.seed, fold, member) for member in range(options.seeds)])
    mean, std = train.embedding.mean(axis=0), train.embedding.std(axis=0) + _EPSILON
    if warm_start is not None:
        mean, std = bank.load_weights(warm_start)
    std = floored_std(std)  # those of a warm start too: earlier releases stored them without a floor
    bank = bank.to(device.name)
    decay = options.optimizer.averaging
    average = (
        AveragedModel(bank, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None  # type: ignore[no-untyped-call]
    )
    mirrored = None
    if options.augmentation.mirrored and len(train.embedding_mirrored) == len(train):
        mirrored = torch.tensor((train.embedding_mirrored - mean) / std, device=device.name)
    return _Training(
        bank,
        average,
        _optimizer(bank, options.optimizer),
        mean,
        std,
        torch.tensor((train.embedding - mean) / std, device=device.name),
        mirrored,
        make_targets(train, options).to(device.name),
        options,
        device,
    )


def _run(
    training: _Training,
    epochs: int,
    fold: int,
    record: Callable[[TrainingState, float], None],
    checkpoint: Path | None,
    on_epoch: Callable[[EpochReport], None],
) -> TrainedBank:
    """Train until `epochs` or until all members have stopped. `record` adds an epoch to the state."""
    bank, options = training.bank, training.options
    state = TrainingState.fresh(bank)
    if checkpoint is not None and checkpoint.exists():
        state = read_checkpoint(checkpoint, bank, training.average, training.optimizer)
    written = time.monotonic()
    while state.epoch < epochs and not state.stopped.all():
        torch.manual_seed(derived_seed(options.seed, fold, _EPOCH_SEEDS + state.epoch))
        record(state, _train_epoch(training, state.epoch))
        if checkpoint is not None and time.monotonic() - written >= _CHECKPOINT_SECONDS:
            write_checkpoint(checkpoint, bank, training.average, training.optimizer, state)
            written = time.monotonic()
        on_epoch(EpochReport(state.epoch, epochs, *state.curve[-1], int((~state.stopped).sum())))
    state.restore_best(bank)
    inputs = {
        "input.mean": np.tile(training.mean.astype(np.float32), (options.seeds, 1)),
        "input.std": np.tile(training.std.astype(np.float32), (options.seeds, 1)),
    }
    return TrainedBank(
        {**bank.head_tensors(), **inputs},
        {**bank.weight_tensors(), **inputs},
        [int(epoch) for epoch in state.best_epoch],
        state.curve,
    )


def _train_epoch(training: _Training, epoch: int) -> float:
    """Pass once over the faces, each member in an order of its own. Returns the mean loss."""
    bank, options, faces = training.bank, training.options, training.faces
    bank.train()
    count = len(faces)
    batch_size = min(options.optimizer.batch_size, count)
    steps = count // batch_size
    order = torch.stack([torch.randperm(count) for _ in range(options.seeds)]).to(faces.device)
    total = torch.zeros((), dtype=torch.float64)
    for step in range(steps):
        rate = _learning_rate(options.optimizer, epoch * steps + step, steps)
        for group in training.optimizer.param_groups:
            group["lr"] = rate
        index = order[:, step * batch_size : (step + 1) * batch_size]
        batch = draw(faces, training.mirrored, index), training.targets.rows(index)
        features, targets = augment(*batch, options)
        with training.device.autocast():
            logits = bank(features)
        losses = [weight * face_losses(logits.float(), labels, options) for weight, labels in targets]
        loss = sum(losses[1:], losses[0]).mean(dim=1)
        training.optimizer.zero_grad()
        # Members share no weights, so the sum trains each by its own loss.
        torch.autograd.backward(loss.sum())
        training.optimizer.step()
        if training.average is not None:
            training.average.update_parameters(bank)
        total = total.to(loss.device) + loss.detach().mean()
    return float(total) / steps


@torch.no_grad()
def _validation_losses(bank: nn.Module, faces: Tensor, targets: Targets, options: TrainingOptions) -> Tensor:
    """Return the mean loss of each member [members]."""
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
        fused=True,  # reads and writes each weight once per step
    )


def _learning_rate(options: OptimizerOptions, step: int, steps_per_epoch: int) -> float:
    if options.schedule == "constant":
        return options.learning_rate
    if options.schedule == "exponential":
        return options.learning_rate * options.gamma ** (step // steps_per_epoch)
    steps = options.epochs * steps_per_epoch
    warm = min(1.0, (step + 1) / max(1.0, _WARM_UP * steps))
    return options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def face_losses(logits: Tensor, batch: Targets, options: TrainingOptions) -> Tensor:
    """Return the loss [members, faces] of logits [members, faces, outputs]; unknown labels add nothing.

    batch : targets [members, faces, …], because each member draws its own batch.
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
    """Return the cross entropy with the label's distribution; for an interval, minus its log-likelihood."""
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
