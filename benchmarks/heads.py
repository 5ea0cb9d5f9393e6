"""Compare heads with uncertainty: our shipped ensembles and the original's 512 Monte-Carlo dropout passes.

The original (tae898/age-gender) predicts with 512 passes through a ResMLP with dropout, for age and again for
gender, face by face. It is implemented here from that description with its published sizes. As in the
original, the passes of a face are one batch of 512 copies. A bank of one takes as long as a plain
`nn.Module`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from agegender.heads.head import Head, Task, heads_directory, load_head, read_current
from agegender.heads.networks import ResMlp
from agegender.spaces import Space
from torch import Tensor
from trainer.training.bank import Bank

from benchmarks.table import Row, compared

PASSES = 512
HEADS = Path(__file__).parent.parent / "services" / "predictor" / "heads"
SPACE = Space(id="buffalo_sc-5", dimension=512)


def original() -> Callable[[np.ndarray], None]:
    banks = [
        Bank(ResMlp(blocks=blocks).layers(512, outputs), [0]).eval() for blocks, outputs in ((2, 101), (4, 2))
    ]

    def dropped_out(bank: Bank, face: Tensor) -> Tensor:
        bank.training = True  # turns dropout on; the norms stay in evaluation mode
        return torch.softmax(bank(face), dim=-1).mean(dim=1)

    for bank in banks:
        bank.__dict__["_normalised"] = _evaluated(bank)

    @torch.no_grad()
    def answer(embeddings: np.ndarray) -> None:
        for embedding in embeddings:
            face = torch.tensor(embedding).expand(1, PASSES, -1)
            for bank in banks:
                dropped_out(bank, face)

    return answer


def _evaluated(bank: Bank) -> Callable[[str, Tensor], Tensor]:
    """Return batch normalisation in evaluation mode, independent of dropout."""

    def normalised(key: str, features: Tensor) -> Tensor:
        bank.training = False
        try:
            return Bank._normalised(bank, key, features)
        finally:
            bank.training = True

    return normalised


def shipped(task: Task) -> Head:
    directory = heads_directory(HEADS, task, SPACE)
    current = read_current(directory)
    assert current is not None
    return load_head(directory / current.version)


def rows() -> list[Row]:
    baseline, heads = original(), [shipped(task) for task in Task]

    def ours(embeddings: np.ndarray) -> None:
        for head in heads:
            head.probabilities(embeddings)

    table = []
    for faces, goal in ((1, 40), (64, 300)):
        embeddings = np.random.default_rng(0).standard_normal((faces, 512)).astype(np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        table.append(
            compared(
                f"heads with uncertainty, {faces} face{'s' * (faces > 1)}",
                f"{PASSES} Monte-Carlo dropout passes × 2 heads, face by face, batched passes",
                goal,
                lambda e=embeddings: ours(e),  # type: ignore[misc]
                lambda e=embeddings: baseline(e),  # type: ignore[misc]
                5,
                f"{heads[0].manifest.members} networks per head",
                "both sides are limited by multiplications, and the baseline has about 200 times as many",
            )
        )
    return table
