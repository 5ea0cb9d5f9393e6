"""Experiments that begin with the networks of another one, and those on several data sets."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.spaces import Space
from safetensors.numpy import load_file
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment import (
    Experiment,
    TrainingRequest,
    fold_dir,
    load_experiment,
    save_experiment,
)
from trainer.experiments.experiment_data import choose_extraction, load_faces
from trainer.experiments.fold import run_fold
from trainer.experiments.steps import fold_status
from trainer.experiments.warm_start import WEIGHTS, read_warm_start, require_warm_start
from trainer.runs.attempt import Attempt
from trainer.runs.run import read_optional
from trainer.training.bank import prepare_device
from trainer.training.config import TrainingOptions

from tests.support.made_faces import SPACE, made_faces

OPTIONS = TrainingOptions.model_validate(
    {"head": {"kind": "mlp", "hidden": [16]}, "optimizer": {"epochs": 12, "batch_size": 32}, "seeds": 2}
)


def experiment(data_dir: Path, name: str, dataset: str, **changes: Any) -> Experiment:
    given = {
        "id": name,
        "created": datetime.now(UTC),
        "datasets": [dataset],
        "image_set": "images",
        "space": SPACE,
        "folds": [0],
        "options": OPTIONS,
        "preset": "default",
        **changes,
    }
    made = Experiment.model_validate(given)
    save_experiment(data_dir, made)
    return made


def trained(data_dir: Path, made: Experiment) -> dict[str, Any]:
    faces = load_faces(data_dir, made.datasets, made.space, made.image_set)
    machine = prepare_device("cpu", amp=False, threads=1)
    run_fold(data_dir, made, faces, 0, Attempt(fold_dir(data_dir, made.id, 0)), machine)
    return dict(read_optional(fold_dir(data_dir, made.id, 0) / "metrics.json"))


def test_warm_start_begins_where_the_other_experiment_ended(tmp_path: Path) -> None:
    write_embedding_set(tmp_path, "many", "images", made_faces(1000, seed=1), {})
    write_embedding_set(tmp_path, "few", "images", made_faces(150, seed=2), {})
    source = experiment(tmp_path, "pre", "many")
    trained(tmp_path, source)
    require_warm_start(tmp_path, "pre", ["few"], SPACE, OPTIONS)
    plain = trained(tmp_path, experiment(tmp_path, "plain", "few"))
    three = OPTIONS.model_copy(update={"seeds": 3})
    ahead = trained(tmp_path, experiment(tmp_path, "ahead", "few", warm_start="pre", options=three))
    assert ahead["curve"][0][1] < 0.7 * plain["curve"][0][1]
    # The input's scale belongs to the weights, and a third network takes the first one's place.
    begun = read_warm_start(tmp_path, "pre", 3)
    source_weights = load_file(fold_dir(tmp_path, "pre", 0) / WEIGHTS)
    assert begun is not None
    for name, value in begun.items():
        np.testing.assert_array_equal(value, source_weights[name][[0, 1, 0]])
    status = fold_status(tmp_path, load_experiment(tmp_path, "ahead"), 0)
    assert [point[0] for point in status.curve] == list(range(1, status.epoch + 1))
    assert status.worker is not None and status.worker.endswith(f":{os.getppid()}")
    ended = load_file(fold_dir(tmp_path, "ahead", 0) / WEIGHTS)
    np.testing.assert_array_equal(ended["input.mean"], begun["input.mean"])


@pytest.mark.parametrize(
    ("datasets", "space", "options", "detail"),
    [
        (["many"], SPACE, OPTIONS, "trained on many"),
        (["few"], Space(id="other-1", dimension=32), OPTIONS, "other-1"),
        (["few"], SPACE, OPTIONS.model_copy(update={"task": "age"}), "tasks"),
        (["few"], SPACE, TrainingOptions(), "head"),
    ],
)
def test_warm_start_that_makes_no_sense_is_refused(
    tmp_path: Path, datasets: list[str], space: Space, options: TrainingOptions, detail: str
) -> None:
    experiment(tmp_path, "pre", "many")
    with pytest.raises(Problem, match="not trained yet"):
        require_warm_start(tmp_path, "pre", ["few"], SPACE, OPTIONS)
    weights = fold_dir(tmp_path, "pre", 0) / WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.touch()
    with pytest.raises(Problem, match=detail) as refused:
        require_warm_start(tmp_path, "pre", datasets, space, options)
    assert refused.value.extra["errors"][0]["field"] == "warm_start"
    with pytest.raises(Problem, match="no experiment"):
        require_warm_start(tmp_path, "absent", datasets, space, options)


def test_data_sets_of_different_folders_are_trained_on_together(tmp_path: Path) -> None:
    write_embedding_set(tmp_path, "Adience", "aligned", made_faces(60, seed=1), {})
    write_embedding_set(tmp_path, "Adience", "faces", made_faces(50, seed=1), {})
    write_embedding_set(tmp_path, "UTKFace", "images", made_faces(40, seed=2), {})

    def selected(**given: Any) -> tuple[Space, str]:
        return choose_extraction(tmp_path, TrainingRequest.model_validate(given))

    both = ["Adience", "UTKFace"]
    assert selected(dataset="UTKFace") == (SPACE, "images")
    assert selected(dataset="Adience", image_set="faces") == (SPACE, "faces")
    space, image_set = selected(dataset=both, image_set="aligned,images")
    assert len(load_faces(tmp_path, both, space, image_set)) == 100
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"dataset": both}, "image_set"),
        ({"dataset": both, "image_set": "aligned"}, "image_set"),
        ({"dataset": both, "image_set": "a,b,c"}, "image_set"),
        ({"dataset": both, "space": "other-1"}, "dataset"),
        ({"dataset": ["Adience", "absent"]}, "dataset"),
    ]
    for wrong, field in wrongs:
        with pytest.raises(Problem) as refused:
            selected(**wrong)
        assert refused.value.extra["errors"][0]["field"] == field
