"""Training of banks: members are independent, killed jobs resume, every kind of label teaches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agegender.heads.head import Task
from agegender.heads.networks import Mlp, ResMlp, bank_logits
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.evaluation import member_probabilities, task_tensors
from trainer.training.bank import Bank
from trainer.training.config import EpochReport, OptimizerOptions, TrainingOptions, preset_options
from trainer.training.data import make_targets
from trainer.training.train import train_bank

from tests.support.made_faces import made_faces


def options(**changes: object) -> TrainingOptions:
    return TrainingOptions.model_validate(
        {
            "head": {"kind": "mlp", "hidden": [32], "dropout": 0.1},
            "optimizer": {"epochs": 12, "batch_size": 64, "learning_rate": 5e-3},
            "seeds": 2,
            **changes,
        }
    )


def halves(faces: EmbeddingSet) -> tuple[EmbeddingSet, EmbeddingSet]:
    index = np.arange(len(faces))
    return faces.rows(index[::2]), faces.rows(index[1::2])


def test_training_learns_age_and_gender() -> None:
    train, test = halves(made_faces(1200))
    config = options()
    bank = train_bank(train, test, config, fold=0)
    predicted = {task: p.mean(axis=0) for task, p in member_probabilities(bank.tensors, config, test).items()}
    age_error = np.abs(predicted[Task.AGE] @ np.arange(101) - test.age_low).mean()
    guess = np.abs(np.median(train.age_low) - test.age_low).mean()
    assert age_error < guess / 2
    assert (predicted[Task.GENDER].argmax(axis=1) == test.gender).mean() > 0.9


def test_group_labels_teach_a_head_of_years() -> None:
    faces = made_faces(1200)
    train, test = halves(faces)
    blurred = replace(train, age_low=train.age_low // 10 * 10, age_high=train.age_low // 10 * 10 + 9)
    config = options(task="age")
    bank = train_bank(blurred, test, config, fold=0)
    predicted = member_probabilities(bank.tensors, config, test)[Task.AGE].mean(axis=0)
    guess = np.abs(np.median(train.age_low) - test.age_low).mean()
    assert np.abs(predicted @ np.arange(101) - test.age_low).mean() < guess / 2


def rectified(faces: EmbeddingSet) -> EmbeddingSet:
    """Return the faces with their features as after a ReLU."""
    return replace(
        faces,
        embedding=np.maximum(faces.embedding, 0),
        embedding_mirrored=np.maximum(faces.embedding_mirrored, 0),
    )


def with_rare_features(faces: EmbeddingSet, active: bool) -> EmbeddingSet:
    """Set the last four features: 0, or a hundredth of what an active feature has."""
    embedding = faces.embedding.copy()
    embedding[:, -4:] = 0.001 if active else 0
    return replace(faces, embedding=embedding, embedding_mirrored=embedding.copy())


@pytest.mark.parametrize("active_in_one_training_face", [False, True])
@pytest.mark.parametrize("head", [{"kind": "mlp", "hidden": [32]}, {"kind": "resmlp", "blocks": 2}])
def test_feature_that_hardly_any_training_face_has_does_not_decide_on_new_faces(
    head: dict[str, object], active_in_one_training_face: bool
) -> None:
    train, test = halves(rectified(made_faces(400)))
    train = with_rare_features(train, False)
    if active_in_one_training_face:
        train.embedding[0, -4:] = 1e-5
    config = options(head=head)
    bank = train_bank(train, with_rare_features(test, False), config, fold=0)
    without, with_ = (
        member_probabilities(bank.tensors, config, with_rare_features(test, active))[Task.AGE].mean(axis=0)
        for active in (False, True)
    )
    moved = np.abs((with_ - without) @ np.arange(101))
    assert moved.max() < 3  # years


def test_warm_start_from_an_earlier_release_gets_the_floor_too() -> None:
    train, test = halves(with_rare_features(rectified(made_faces(200)), False))
    config = options(optimizer={"epochs": 1, "batch_size": 32})
    first = train_bank(train, test, config, fold=0)
    before = {**first.weights, "input.std": first.weights["input.std"].copy()}
    before["input.std"][:, -4:] = 1e-6
    second = train_bank(train, test, config, fold=0, warm_start=before)
    np.testing.assert_array_equal(second.tensors["input.std"], first.tensors["input.std"])
    assert second.tensors["input.std"].min() > 1e-4


def test_label_is_a_bell_that_widens_with_age_or_the_age_itself() -> None:
    ages = np.array([1, 40, 60], np.float32)
    faces = replace(made_faces(3), age_low=ages, age_high=ages)

    def spread(**loss: float) -> list[float]:
        learnt = make_targets(faces, options(loss=loss)).age.numpy()
        assert learnt.argmax(axis=1).tolist() == ages.tolist()
        assert learnt.sum(axis=1) == pytest.approx(1)
        variance = (learnt * (np.arange(101) - learnt @ np.arange(101)[:, None]) ** 2).sum(axis=1)
        return [float(one) for one in np.sqrt(variance)]

    assert spread(label_width=0, label_growth=0) == [0, 0, 0]
    assert spread(label_width=2, label_growth=0, label_peak=0)[1:] == pytest.approx([2, 2], abs=0.01)
    growing = spread(label_width=0.5, label_growth=0.05, label_peak=0)
    assert growing[0] < 0.8
    assert growing[1:] == pytest.approx([2.5, 3.5], abs=0.01)
    peaked = spread(label_width=0.5, label_growth=0.05, label_peak=0.75)
    assert peaked == pytest.approx([one / 2 for one in growing], abs=0.1)


def test_unknown_labels_are_omitted() -> None:
    faces = made_faces(600)
    age = faces.age_low.copy()
    age[::3] = np.nan
    gender = faces.gender.copy()
    gender[::4] = -1
    train, test = halves(replace(faces, age_low=age, age_high=age, gender=gender))
    bank = train_bank(train, test, options(), fold=0)
    assert all(np.isfinite(tensor).all() for tensor in bank.tensors.values())


def test_a_member_is_the_same_alone_and_in_a_bank_at_the_start() -> None:
    layers = Mlp(hidden=(8,)).layers(16, 3)
    together, alone = Bank(layers, [3, 4]), Bank(layers, [4])
    for name, value in alone.state_dict().items():
        np.testing.assert_array_equal(together.state_dict()[name][1], value[0])


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_after", [1, 5])
def test_killed_training_continues_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_after: int
) -> None:
    monkeypatch.setattr("trainer.training.train._CHECKPOINT_SECONDS", 0.0)
    train, validation = halves(made_faces(500))
    config = options(augmentation={"noise": 0.1, "mixup": 0.3})
    undisturbed = train_bank(train, validation, config, fold=1)

    def kill(report: EpochReport) -> None:
        if report.epoch == kill_after:
            raise Killed

    with pytest.raises(Killed):
        train_bank(train, validation, config, fold=1, checkpoint=tmp_path / "c.safetensors", on_epoch=kill)
    epochs: list[int] = []
    resumed = train_bank(
        train,
        validation,
        config,
        fold=1,
        checkpoint=tmp_path / "c.safetensors",
        on_epoch=lambda report: epochs.append(report.epoch),
    )
    assert epochs[0] == kill_after + 1
    assert resumed.best_epochs == undisturbed.best_epochs
    for name, tensor in undisturbed.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[name], tensor)


def test_early_stopping_keeps_the_best_epoch() -> None:
    train, validation = halves(made_faces(200))
    config = options(
        optimizer={
            "epochs": 60,
            "patience": 3,
            "learning_rate": 0.05,
            "schedule": "constant",
            "batch_size": 32,
        }
    )
    epochs: list[int] = []
    bank = train_bank(train, validation, config, 0, on_epoch=lambda report: epochs.append(report.epoch))
    assert epochs[-1] == max(bank.best_epochs) + 3 < 60


@pytest.mark.parametrize(
    "architecture", [Mlp(hidden=(16, 8)), Mlp(hidden=(), norm=False), ResMlp(blocks=2), ResMlp(blocks=4)]
)
def test_torch_bank_equals_the_numpy_head(architecture: Mlp | ResMlp) -> None:
    train, test = halves(made_faces(300))
    config = options(head=architecture.model_dump(), optimizer={"epochs": 2, "batch_size": 32})
    tensors = train_bank(train, test, config, fold=0).tensors
    import torch

    bank = Bank(architecture.layers(train.space.dimension, config.outputs), [1, 2])
    reference = _trained_bank(bank, train, test, config)
    features = torch.tensor((test.embedding - tensors["input.mean"][0]) / tensors["input.std"][0])
    with torch.no_grad():
        expected = reference(features.expand(2, -1, -1)).numpy()
    folded = {
        **reference.head_tensors(),
        "input.mean": tensors["input.mean"],
        "input.std": tensors["input.std"],
    }
    layers = architecture.layers(train.space.dimension, config.outputs)
    np.testing.assert_allclose(bank_logits(layers, folded, test.embedding), expected, rtol=1e-3, atol=1e-4)


def _trained_bank(bank: Bank, train: EmbeddingSet, test: EmbeddingSet, config: TrainingOptions) -> Bank:
    """A bank whose norms have seen data, so that folding them is not trivial."""
    import torch

    bank.train()
    with torch.no_grad():
        for _ in range(5):
            bank(torch.tensor(train.embedding).expand(2, -1, -1) * 3 + 0.5)
        for parameter in bank.others.values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return bank.eval()


def test_joint_head_is_cut_into_its_tasks() -> None:
    train, test = halves(made_faces(200))
    config = options(optimizer={"epochs": 1, "batch_size": 32})
    tensors = train_bank(train, test, config, fold=0).tensors
    both = member_probabilities(tensors, config, test)
    for task in (Task.AGE, Task.GENDER):
        alone = member_probabilities(
            task_tensors(tensors, config, task), config.model_copy(update={"task": task.value}), test
        )
        np.testing.assert_allclose(alone[task], both[task], rtol=1e-4, atol=1e-6)


def test_original_preset_is_the_published_one() -> None:
    age = TrainingOptions.model_validate({"task": "age", **preset_options("original", "age")})
    gender = TrainingOptions.model_validate({"task": "gender", **preset_options("original", "gender")})
    assert isinstance(age.head, ResMlp) and isinstance(gender.head, ResMlp)
    assert (age.head.blocks, gender.head.blocks) == (2, 4)
    assert age.optimizer == OptimizerOptions(
        learning_rate=1.17e-3,
        weight_decay=1.2e-4,
        batch_size=128,
        epochs=100,
        patience=5,
        schedule="exponential",
        gamma=0.3948,
    )
