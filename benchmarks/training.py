"""A bank of five seeds against one network at a time behind a per-sample loader; the original's ResMLP."""

import numpy as np
import torch
from agegender.datasets import EmbeddingSet
from agegender.spaces import Space
from torch.utils.data import DataLoader, Dataset
from trainer.training.bank import Bank
from trainer.training.config import TrainingOptions, preset_options
from trainer.training.losses import face_losses
from trainer.training.targets import Targets, make_targets
from trainer.training.train import train_bank

from benchmarks.table import Row, compared

FACES, VALIDATION, DIMENSION, SEEDS = 12_500, 500, 512, 5
_SPACE = Space(id="made-up", dimension=DIMENSION)


def made_up(faces: int, space: Space = _SPACE, folds: int = 1) -> EmbeddingSet:
    """Random embeddings and labels: an epoch takes as long as one on real ones."""
    draws = np.random.default_rng(0)
    embedding = draws.standard_normal((faces, space.dimension)).astype(np.float32)
    age = draws.integers(0, 90, faces).astype(np.float32)
    return EmbeddingSet(
        space=space,
        file=np.arange(faces).astype(np.str_),
        embedding=embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
        age_low=age,
        age_high=age,
        gender=draws.integers(0, 2, faces).astype(np.int8),
        subject=np.arange(faces).astype(np.str_),
        fold=(np.arange(faces) % folds).astype(np.int16),
        embedding_mirrored=np.empty((0, space.dimension), np.float32),
    )


class _Samples(Dataset[tuple[torch.Tensor, ...]]):
    """One face at a time, as the original's loader reads them."""

    def __init__(self, faces: EmbeddingSet, targets: Targets) -> None:
        self._columns = (torch.tensor(faces.embedding), *vars(targets).values())

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        return tuple(column[row] for column in self._columns)


def rows() -> list[Row]:
    train, validation = made_up(FACES), made_up(VALIDATION)
    preset = preset_options("original", "age")
    preset["optimizer"]["epochs"] = 1
    options = TrainingOptions.model_validate({"task": "age", "seeds": SEEDS, **preset})
    batch = options.optimizer.batch_size
    loader = DataLoader(_Samples(train, make_targets(train, options)), batch_size=batch, shuffle=True)
    bank = Bank(options.head.layers(DIMENSION, options.outputs), [0])
    optimizer = torch.optim.AdamW(bank.parameters(), lr=options.optimizer.learning_rate)

    def one_network() -> None:
        bank.train()
        for features, *columns in loader:
            targets = Targets(*(column[None] for column in columns))
            loss = face_losses(bank(features[None]), targets, options).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def one_after_the_other() -> None:
        for _ in range(SEEDS):
            one_network()

    row = compared(
        f"training {SEEDS} seeds of the original's ResMLP, an epoch of {FACES:,} faces",
        "a per-sample DataLoader loop, one network after the other",
        8,
        lambda: train_bank(train, validation, options, fold=0),
        one_after_the_other,
        3,
        f"age head, {DIMENSION}-d, batches of {batch}; five folds are five times both sides",
    )
    return [row]
