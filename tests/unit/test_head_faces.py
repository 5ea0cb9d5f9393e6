"""The number of faces that a head was trained on, and which heads were tested on the same faces."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.files import read_json, read_npz, write_json, write_npz
from agegender.heads.head import Task, heads_directory
from trainer.datasets.embedding_set import EmbeddingSet, data_path, file_sha256
from trainer.experiments.experiment import METRICS, OUT_OF_FOLD, Experiment, fold_dir, refit_dir
from trainer.experiments.fold import split_faces
from trainer.experiments.promote import built_heads, promote
from trainer.experiments.served import HeadComparison, compare_with_served

from tests.support.made_faces import SPACE, made_faces
from tests.support.trained_experiments import OPTIONS, trained_experiment

SHIPPED = Path(__file__).parents[2] / "services" / "predictor" / "heads"
QUICK = OPTIONS.model_copy(update={"optimizer": OPTIONS.optimizer.model_copy(update={"epochs": 1})})
FACES = made_faces(300, folds=3)


def few_ages(faces: EmbeddingSet) -> EmbeddingSet:
    """Return the faces without the ages of all but 40."""
    unknown = np.arange(len(faces)) >= 40
    low, high = (np.where(unknown, np.float32(np.nan), age) for age in (faces.age_low, faces.age_high))
    return replace(faces, age_low=low, age_high=high)


@pytest.fixture
def one_fold(tmp_path: Path) -> Experiment:
    return trained_experiment(tmp_path, "one", "made", FACES, QUICK, [0])


def stated(data_dir: Path, experiment: Experiment) -> dict[str, Any]:
    """Return what the cards of the heads state of their data, by task."""
    return {
        head.manifest.task.value: head.manifest.card["data"] for head in built_heads(data_dir, experiment)
    }


def compared(data_dir: Path, experiment: Experiment) -> HeadComparison:
    return compare_with_served(data_dir, data_dir / "none", experiment)[0]


def trained_names(faces: EmbeddingSet, experiment: Experiment) -> set[str]:
    """Return the names of the faces of known age that any fold's networks were trained on."""
    parts = [split_faces(faces, experiment, fold).train for fold in experiment.folds]
    return {name for part in parts for name in part.file[part.has_age].tolist()}


def test_head_of_one_fold_was_trained_on_the_other_folds_without_the_validation_split(
    tmp_path: Path, one_fold: Experiment
) -> None:
    parts = read_json(fold_dir(tmp_path, "one", 0) / METRICS)["faces"]
    assert parts["train"] != parts["test"]
    card = stated(tmp_path, one_fold)["age"]
    assert (card["faces"], card["folds"]) == (parts["train"], [0])


def test_head_was_trained_on_the_faces_of_any_of_its_networks_with_a_label_for_its_task(
    tmp_path: Path,
) -> None:
    faces = few_ages(FACES)
    experiment = trained_experiment(tmp_path, "few-ages", "made", faces, QUICK)
    cards = stated(tmp_path, experiment)
    assert cards["age"]["faces"] == len(trained_names(faces, experiment)) <= 40
    assert 200 < cards["gender"]["faces"] <= 300
    assert cards["age"]["tested_sha256"] != cards["gender"]["tested_sha256"]


def test_head_trained_on_all_faces_states_all_that_are_labelled(tmp_path: Path) -> None:
    experiment = trained_experiment(tmp_path, "all", "made", few_ages(FACES), QUICK, [0])
    final = experiment.model_copy(update={"refit": True})
    (refit_dir(tmp_path, "all", None)).mkdir()
    write_json(refit_dir(tmp_path, "all", None) / METRICS, {"chosen": "all", "nll": {}})
    for name in ("bank.safetensors", OUT_OF_FOLD):
        content = (fold_dir(tmp_path, "all", 0) / name).read_bytes()
        for directory in (refit_dir(tmp_path, "all", None), refit_dir(tmp_path, "all", 0)):
            directory.mkdir(exist_ok=True)
            (directory / name).write_bytes(content)
    report = tmp_path / "experiments" / "all" / "report.json"
    judged = read_json(report)
    write_json(report, {**judged, "served": {**judged, "nll": {}, "epochs": 1}})
    assert [one["faces"] for one in stated(tmp_path, final).values()] == [40, 300]


def test_heads_of_different_folds_are_not_compared_by_their_cards(
    tmp_path: Path, one_fold: Experiment
) -> None:
    promote(tmp_path, one_fold)
    again = trained_experiment(tmp_path, "again", "made", FACES, QUICK, [0])
    other = trained_experiment(tmp_path, "other", "made", FACES, QUICK, [1])
    assert compared(tmp_path, again).both_out_of_fold
    assert not compared(tmp_path, other).both_out_of_fold
    assert compared(tmp_path, other).served_saw == "all"


def test_one_fold_of_three_has_enough_faces_to_replace_a_head_of_three(
    tmp_path: Path, one_fold: Experiment
) -> None:
    promote(tmp_path, trained_experiment(tmp_path, "three", "made", FACES, QUICK))
    found = compared(tmp_path, one_fold)
    assert found.served_trained_on is not None
    assert found.new_trained_on >= found.served_trained_on / 2 and "fewer-faces" not in found.reasons


def as_earlier_release(data_dir: Path, version: str, experiment: Experiment, tested: int) -> None:
    """Give the card of a promoted head the form of earlier releases."""
    path = heads_directory(data_dir / "models", Task.AGE, SPACE) / version / "head.json"
    head = read_json(path)
    sha256 = file_sha256(data_path(data_dir, "made", SPACE, "images"))
    head["card"]["data"] = {"sets": experiment.datasets, "sha256": {"made": sha256}, "faces": tested}
    write_json(path, head)


@pytest.mark.parametrize(("folds", "tested", "same"), [([0, 1, 2], 300, True), ([0], 100, False)])
def test_card_of_an_earlier_release_is_the_same_only_if_every_fold_was_tested(
    tmp_path: Path, folds: list[int], tested: int, same: bool
) -> None:
    old = trained_experiment(tmp_path, "old", "made", FACES, QUICK, folds)
    promote(tmp_path, old)
    as_earlier_release(tmp_path, "old-age", old, tested)
    new = trained_experiment(tmp_path, "new", "made", FACES, QUICK, folds)
    found = compared(tmp_path, new)
    assert (found.served_trained_on, found.both_out_of_fold) == (tested, same)


def test_number_in_a_card_of_an_earlier_release_is_compared_with_its_like(tmp_path: Path) -> None:
    """It is that of the tested faces with any label, of which here 40 of 300 have an age."""
    old = trained_experiment(tmp_path, "old", "made", few_ages(FACES), QUICK)
    promote(tmp_path, old)
    as_earlier_release(tmp_path, "old-age", old, 300)
    found = compared(tmp_path, trained_experiment(tmp_path, "new", "made", few_ages(FACES), QUICK))
    assert "fewer-faces" not in found.reasons and found.new_trained_on <= 40


@pytest.mark.parametrize("folds", [[0], [0, 1, 2]])
def test_folds_of_an_earlier_release_count_as_many_faces_as_they_trained_on(
    tmp_path: Path, folds: list[int]
) -> None:
    experiment = trained_experiment(tmp_path, "old", "made", FACES, QUICK, folds)
    exact = stated(tmp_path, experiment)["age"]["faces"]
    for fold in folds:
        path = fold_dir(tmp_path, "old", fold) / OUT_OF_FOLD
        arrays = read_npz(path)
        write_npz(path, {name: array for name, array in arrays.items() if name != "validation"})
    counted = stated(tmp_path, experiment)["age"]["faces"]
    assert counted == (exact if len(folds) == 1 else 300)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*/*/*/head.json")), ids=lambda path: path.parent.name)
def test_shipped_heads_state_their_number_of_faces(path: Path) -> None:
    assert read_json(path)["card"]["data"]["faces"] > 19_000
