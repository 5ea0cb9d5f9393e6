"""Mixup of training faces: with ranges and lacking labels too, and never without a word."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.evaluation import member_probabilities
from trainer.training.config import Objective, TrainingOptions, mixup_warnings
from trainer.training.data import augment, make_targets
from trainer.training.train import face_losses, train_bank

from tests.support.made_faces import in_decades, made_faces

FACES = made_faces(200)
NO_GENDER = replace(FACES, gender=np.full(200, -1, np.int8))
UNKNOWN_AGE = np.full(200, np.nan, np.float32)
NO_AGE = replace(FACES, age_low=UNKNOWN_AGE, age_high=UNKNOWN_AGE)
HALF = replace(FACES, gender=np.where(np.arange(200) < 100, FACES.gender, -1).astype(np.int8))


def options(task: Objective, **loss: float) -> TrainingOptions:
    return TrainingOptions.model_validate(
        {
            "task": task,
            "head": {"kind": "mlp", "hidden": [16]},
            "optimizer": {"epochs": 15, "batch_size": 32, "learning_rate": 5e-3},
            "loss": loss,
            "augmentation": {"mixup": 0.4, "mirrored": False},
            "seeds": 1,
        }
    )


def mixed_faces(faces: EmbeddingSet, task: Objective) -> int:
    """Return how many of the faces are mixed with others."""
    config = options(task)
    features = torch.tensor(faces.embedding)[None]
    torch.manual_seed(0)
    mixed, targets = augment(features, make_targets(faces, config).rows(torch.arange(200)[None]), config)
    assert torch.allclose(torch.stack([weight for weight, _ in targets]).sum(dim=0), torch.ones(1, 200))
    return int((mixed != features).any(dim=-1).sum())


@pytest.mark.parametrize(
    ("faces", "task", "least", "most"),
    [
        (FACES, "age-gender", 150, 200),
        (NO_GENDER, "age", 150, 200),
        (NO_AGE, "gender", 150, 200),
        (in_decades(FACES), "age-gender", 150, 200),
        (HALF, "age-gender", 25, 75),  # both of a pair need a gender
        (NO_GENDER, "age-gender", 0, 0),
    ],
)
def test_faces_with_a_label_for_each_trained_task_are_mixed(
    faces: EmbeddingSet, task: Objective, least: int, most: int
) -> None:
    assert least <= mixed_faces(faces, task) <= most


def test_loss_of_two_exact_ages_is_that_of_the_mixed_distribution() -> None:
    config = options("age-gender", mean_weight=0.1)
    labels = make_targets(FACES, config).rows(torch.arange(200)[None])
    _, ((share, own), (rest, other)) = augment(torch.tensor(FACES.embedding)[None], labels, config)
    logits = torch.randn(1, 200, config.outputs, generator=torch.Generator().manual_seed(1))
    weight, remainder = share[..., None], rest[..., None]
    mixed = replace(
        own,
        age=weight * own.age + remainder * other.age,
        gender=weight * own.gender + remainder * other.gender,
    )
    found = share * face_losses(logits, own, config) + rest * face_losses(logits, other, config)
    torch.testing.assert_close(found, face_losses(logits, mixed, config))


def test_mixed_ranges_teach_ages() -> None:
    train, test = made_faces(1200).rows(np.arange(800)), made_faces(1200).rows(np.arange(800, 1200))
    config = options("age")
    bank = train_bank(in_decades(train), in_decades(test), config, fold=0)
    (predicted,) = member_probabilities(bank.tensors, config, test).values()
    guess = np.abs(np.median(train.age_low) - test.age_low).mean()
    assert np.abs(predicted.mean(axis=0) @ np.arange(101) - test.age_low).mean() < guess / 2


def test_warning_if_mixup_mixes_no_faces() -> None:
    def warnings(faces: EmbeddingSet, task: Objective) -> list[str]:
        return mixup_warnings(options(task), faces.has_age, faces.has_gender)

    (warning,) = warnings(NO_GENDER, "age-gender")
    assert "augmentation.mixup has no effect" in warning and "a known age and a known gender" in warning
    assert warnings(NO_GENDER, "age") == warnings(NO_AGE, "gender") == warnings(HALF, "age-gender") == []
