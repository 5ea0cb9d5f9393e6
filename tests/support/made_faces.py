"""Made-up embeddings with ages and genders in them: no person's, and learnable in a second."""

from dataclasses import replace

import numpy as np
from agegender.spaces import Space
from trainer.datasets.embedding_set import EmbeddingSet

SPACE = Space(id="made-1", dimension=32)


def made_faces(count: int, seed: int = 0, space: Space = SPACE, folds: int = 5) -> EmbeddingSet:
    """Two faces a subject; folds follow subjects."""
    draws = np.random.default_rng(seed)
    subject = np.arange(count) // 2
    age = draws.integers(0, 90, subject.max() + 1)[subject].astype(np.float32)
    gender = draws.integers(0, 2, subject.max() + 1)[subject].astype(np.int8)
    directions = np.random.default_rng(99).standard_normal((3, space.dimension))
    signal = np.stack([age / 40 - 1, np.sin(age / 15), gender * 2.0 - 1], axis=1)

    def embedding() -> np.ndarray:
        points = signal @ directions + draws.standard_normal((count, space.dimension)) * 0.8
        return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)

    return EmbeddingSet(
        space=space,
        file=np.array([f"{number:05d}.jpg" for number in range(count)]),
        embedding=embedding(),
        age_low=age,
        age_high=age.copy(),
        gender=gender,
        subject=subject.astype(str),
        fold=(subject % folds).astype(np.int16),
        embedding_mirrored=embedding(),
    )


def in_decades(faces: EmbeddingSet, exact: list[int] | None = None) -> EmbeddingSet:
    """Return the faces with their decades as labels, but for the faces at `exact`."""
    low = faces.age_low // 10 * 10
    high = low + 9
    low[exact or []] = high[exact or []] = faces.age_low[exact or []]
    return replace(faces, age_low=low, age_high=high)
