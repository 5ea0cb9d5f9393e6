"""A bank of five seeds against one network at a time behind a per-sample loader; the original's ResMLP."""

import numpy as np
import torch
from agegender.datasets import EmbeddingSet
from agegender.heads.head import Task
from agegender.spaces import Space
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainer.training.bank import Bank
from trainer.training.config import TrainingOptions, preset_options
from trainer.training.predict import member_probabilities
from trainer.training.train import Machine, TrainedBank, train_bank

from benchmarks.table import Goal, Row, seconds_of

FACES, VALIDATION, DIMENSION, SEEDS, EPOCHS, ROUNDS = 12_500, 2_500, 512, 5, 3, 2
_AGES = 90


def made_faces(faces: int, seed: int = 0) -> EmbeddingSet:
    """Embeddings in which the age can be learnt, though not well: a curve in space under much noise."""
    draws = np.random.default_rng(seed)
    age = draws.integers(0, _AGES, faces)
    curve = np.random.default_rng(7).standard_normal((4, DIMENSION)) / np.sqrt(DIMENSION)
    waves = np.stack([np.sin(age[:, None] * step / _AGES * np.pi)[:, 0] for step in (0.5, 1, 2, 3)], axis=1)
    embedding = waves @ curve + draws.standard_normal((faces, DIMENSION)) * 0.9 / np.sqrt(DIMENSION)
    return EmbeddingSet(
        space=Space(id="made-up", dimension=DIMENSION),
        file=np.arange(faces).astype(np.str_),
        embedding=(embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32),
        age_low=age.astype(np.float32),
        age_high=age.astype(np.float32),
        gender=draws.integers(0, 2, faces).astype(np.int8),
        subject=np.full(faces, ""),
        fold=np.zeros(faces, np.int16),
        embedding_mirrored=np.empty((0, DIMENSION), np.float32),
    )


def original_options(seeds: int, epochs: int) -> TrainingOptions:
    preset = preset_options("original", "age")
    preset["optimizer"]["epochs"] = epochs
    return TrainingOptions.model_validate({"task": "age", "seeds": seeds, **preset})


def train(
    faces: int, seeds: int, epochs: int = 1, machine: Machine = Machine()
) -> tuple[TrainedBank, TrainingOptions]:
    options = original_options(seeds, epochs)
    bank = train_bank(made_faces(faces), made_faces(VALIDATION, 1), options, fold=0, machine=machine)
    return bank, options


def rows() -> list[Row]:
    ours, theirs, errors = [], [], []
    baseline_errors: list[float] = []
    for round_ in range(ROUNDS):
        theirs.append(SEEDS * seconds_of(lambda r=round_: baseline_errors.append(_one_network(r))))  # type: ignore[misc]
        banks: list[tuple[TrainedBank, TrainingOptions]] = []
        ours.append(seconds_of(lambda into=banks: into.append(train(FACES, SEEDS, EPOCHS))))  # type: ignore[misc]
        errors += _errors(*banks[0])
    seconds = {"ours": float(np.median(ours)), "theirs": float(np.median(theirs))}
    spread = f"{np.mean(errors):.2f} ± {np.std(errors):.2f}"
    return [
        Row(
            f"training {SEEDS} seeds of the original's ResMLP, {EPOCHS} epochs of {FACES:,} × {DIMENSION}",
            "a per-sample DataLoader loop, one network after the other",
            seconds["theirs"] / seconds["ours"],
            Goal(8),
            seconds=seconds,
            note=f"age head, batches of {original_options(SEEDS, 1).optimizer.batch_size}, one fold; one network of "
            f"theirs is measured and counted {SEEDS} times. Mean error on held-out made-up faces: a member of the "
            f"bank {spread} years, theirs {np.mean(baseline_errors):.2f}",
            if_missed="the batched products of this wide network are already bound by the cores' arithmetic",
        )
    ]


def _one_network(seed: int) -> float:
    """Train as the original does, sample by sample; gives the mean error on the validation faces, years."""
    train_faces, held_out = made_faces(FACES), made_faces(VALIDATION, 1)
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
    held_out = made_faces(VALIDATION, 1)
    members = member_probabilities(bank.tensors, options, held_out)[Task.AGE]
    return [_mean_error(member, held_out) for member in members]


def _mean_error(probabilities: np.ndarray, faces: EmbeddingSet) -> float:
    years = probabilities @ np.arange(probabilities.shape[1])
    return float(np.abs(years - faces.age_low).mean())
