"""Compare training a bank of five with training single networks through a per-sample loader (ResMLP)."""

from functools import partial

import numpy as np
import torch
from agegender.heads.head import Task
from agegender.spaces import Space
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.evaluation import member_probabilities
from trainer.training.bank import Bank, TrainingDevice
from trainer.training.config import TrainingOptions, preset_options
from trainer.training.train import TrainedBank, train_bank

from benchmarks.table import Goal, Row, seconds_of

FACES, VALIDATION, DIMENSION, SEEDS, EPOCHS, ROUNDS = 12_500, 2_500, 512, 5, 3, 2
_AGES = 90
_SPACE = Space(id="made-up", dimension=DIMENSION)


def made_up(faces: int, space: Space = _SPACE, folds: int = 1, seed: int = 0) -> EmbeddingSet:
    """Return embeddings that depend on the age, with strong noise, so that it can be learnt, but not well."""
    draws = np.random.default_rng(seed)
    age = draws.integers(0, _AGES, faces)
    curve = np.random.default_rng(7).standard_normal((4, space.dimension)) / np.sqrt(space.dimension)
    waves = np.stack([np.sin(age[:, None] * step / _AGES * np.pi)[:, 0] for step in (0.5, 1, 2, 3)], axis=1)
    embedding = waves @ curve + draws.standard_normal((faces, space.dimension)) * 0.9 / np.sqrt(
        space.dimension
    )
    return EmbeddingSet(
        space=space,
        file=np.arange(faces).astype(np.str_),
        embedding=(embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32),
        age_low=age.astype(np.float32),
        age_high=age.astype(np.float32),
        gender=draws.integers(0, 2, faces).astype(np.int8),
        subject=np.arange(faces).astype(np.str_),
        fold=(np.arange(faces) % folds).astype(np.int16),
        embedding_mirrored=np.empty((0, space.dimension), np.float32),
    )


def original_options(seeds: int, epochs: int) -> TrainingOptions:
    preset = preset_options("original", "age")
    preset["optimizer"]["epochs"] = epochs
    return TrainingOptions.model_validate({"task": "age", "seeds": seeds, **preset})


def train(
    faces: int, seeds: int, epochs: int = 1, device: str = "cpu"
) -> tuple[TrainedBank, TrainingOptions]:
    """Train a bank of the original's age head on synthetic faces."""
    options = original_options(seeds, epochs)
    data, held_out = made_up(faces), made_up(VALIDATION, seed=1)
    return train_bank(data, held_out, options, fold=0, device=TrainingDevice(device)), options


def rows() -> list[Row]:
    ours, theirs, errors = [], [], []
    baseline_errors: list[float] = []
    banks: list[tuple[TrainedBank, TrainingOptions]] = []
    for number in range(ROUNDS):
        alone = partial(_one_network, number)
        theirs.append(SEEDS * seconds_of(lambda run=alone: baseline_errors.append(run())))  # type: ignore[misc]
        ours.append(seconds_of(lambda: banks.append(train(FACES, SEEDS, EPOCHS))))
        errors += _errors(*banks[-1])
    seconds = {"ours": float(np.median(ours)), "theirs": float(np.median(theirs))}
    spread = f"{np.mean(errors):.2f} ± {np.std(errors):.2f}"
    return [
        Row(
            f"training {SEEDS} seeds of the original's ResMLP, {EPOCHS} epochs of {FACES:,} × {DIMENSION}",
            "a per-sample DataLoader loop, one network after the other",
            seconds["theirs"] / seconds["ours"],
            Goal(8),
            seconds=seconds,
            note=f"age head, batches of {banks[0][1].optimizer.batch_size}, one fold; one network of theirs "
            f"is measured and multiplied by {SEEDS}. Mean error on held-out synthetic faces: a member of "
            f"ours {spread} years, theirs {np.mean(baseline_errors):.2f}",
            if_missed="this wide network has as many multiplications on both sides, 60 % of our time",
        )
    ]


def _one_network(seed: int) -> float:
    """Train as the original does, sample by sample; return the mean error on the validation faces, years."""
    train_faces, held_out = made_up(FACES), made_up(VALIDATION, seed=1)
    options = original_options(1, EPOCHS)
    mean, std = train_faces.embedding.mean(axis=0), train_faces.embedding.std(axis=0) + 1e-6
    samples = TensorDataset(
        torch.tensor((train_faces.embedding - mean) / std), torch.tensor(train_faces.age_low.astype(np.int64))
    )
    torch.manual_seed(seed)
    loader = DataLoader(samples, batch_size=options.optimizer.batch_size, shuffle=True)
    bank = Bank(options.head.layers(DIMENSION, options.outputs), [seed])
    optimizer = torch.optim.AdamW(
        bank.parameters(), lr=options.optimizer.learning_rate, weight_decay=options.optimizer.weight_decay
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, options.optimizer.gamma)
    for _ in range(EPOCHS):
        bank.train()
        for features, ages in loader:
            loss = nn.functional.cross_entropy(bank(features[None])[0], ages)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
    bank.eval()
    with torch.no_grad():
        logits = bank(torch.tensor((held_out.embedding - mean) / std)[None])[0]
    return _mean_error(torch.softmax(logits, dim=1).numpy(), held_out)


def _errors(bank: TrainedBank, options: TrainingOptions) -> list[float]:
    held_out = made_up(VALIDATION, seed=1)
    members = member_probabilities(bank.tensors, options, held_out)[Task.AGE]
    return [_mean_error(member, held_out) for member in members]


def _mean_error(probabilities: np.ndarray, faces: EmbeddingSet) -> float:
    years = probabilities @ np.arange(probabilities.shape[1])
    return float(np.abs(years - faces.age_low).mean())
