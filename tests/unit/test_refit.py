"""Training on all faces: evaluated on faces it never saw, selected if better, served with its own metrics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.files import read_json, read_npz, write_json
from agegender.heads.head import Head, Task, heads_directory, load_head, save_head
from trainer.datasets.embedding_set import EmbeddingSet, data_path, write_embedding_set
from trainer.evaluation import calibrate
from trainer.experiments.experiment import (
    METRICS,
    OUT_OF_FOLD,
    Experiment,
    experiment_dir,
    fold_dir,
    is_finished,
    refit_dir,
    save_experiment,
)
from trainer.experiments.experiment_data import load_faces, read_out_of_fold
from trainer.experiments.fold import best_epoch, run_fold, run_refit
from trainer.experiments.promote import MAX_BYTES, awaits_promotion, ensemble, ensemble_size, promote
from trainer.jobs import EXPERIMENTS
from trainer.reports.report import compared, summarise, write_final, write_reports
from trainer.runs.attempt import Attempt
from trainer.training.bank import CPU
from trainer.training.config import EpochReport, TrainingOptions
from trainer.training.train import train_bank, train_without_validation

from tests.support.made_experiment import made_experiment
from tests.support.made_faces import SPACE, made_faces
from tools.add_familiarity import with_familiarity

FOLDS = [0, 1, 2]
# So many faces validate that training on all of them is surely better.
OPTIONS = TrainingOptions.model_validate(
    {
        "head": {"kind": "mlp", "hidden": [16]},
        "optimizer": {"epochs": 8, "batch_size": 16},
        "seeds": 2,
        "validation": 0.5,
    }
)


def train_folds(data_dir: Path, faces: EmbeddingSet) -> Experiment:
    write_embedding_set(data_dir, "made", "images", faces, {"mirrored": True, "varied": False})
    experiment = made_experiment(FOLDS, OPTIONS, refit=True)
    save_experiment(data_dir, experiment)
    for fold in FOLDS:
        run_fold(data_dir, experiment, faces, fold, Attempt(fold_dir(data_dir, experiment.id, fold)), CPU)
    return experiment


def end(data_dir: Path, experiment: Experiment) -> None:
    faces = load_faces(data_dir, experiment.datasets, experiment.space, experiment.variant)
    write_reports(data_dir, experiment, summarise(data_dir, experiment))
    assert not is_finished(data_dir, experiment)
    for fold in FOLDS:
        run_refit(data_dir, experiment, faces, fold, Attempt(refit_dir(data_dir, experiment.id, fold)), CPU)
    write_final(data_dir, experiment, faces, Attempt(refit_dir(data_dir, experiment.id, None)), CPU)
    assert is_finished(data_dir, experiment)


def test_training_to_a_given_epoch_gives_the_weights_that_validation_found_there(tmp_path: Path) -> None:
    faces = made_faces(300)
    train, validation = faces.rows(faces.fold != 0), faces.rows(faces.fold == 0)
    options = OPTIONS.model_copy(update={"seeds": 1})
    stopped = train_bank(train, validation, options, fold=0)
    (best,) = stopped.best_epochs
    given = train_without_validation(train, best, options, fold=0)
    assert given.best_epochs == [best] and len(given.curve) == best
    assert [point[1] for point in given.curve] == [None] * best
    for name, tensor in stopped.tensors.items():
        np.testing.assert_array_equal(given.tensors[name], tensor)


def test_killed_refit_continues_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.training.train._CHECKPOINT_SECONDS", 0.0)
    faces, checkpoint = made_faces(300), tmp_path / "c.safetensors"
    undisturbed = train_without_validation(faces, 6, OPTIONS, fold=1)

    def kill(report: EpochReport) -> None:
        if report.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_without_validation(faces, 6, OPTIONS, 1, checkpoint, kill)
    epochs: list[int] = []
    resumed = train_without_validation(
        faces, 6, OPTIONS, 1, checkpoint, lambda report: epochs.append(report.epoch)
    )
    assert epochs == [5, 6] and resumed.curve == undisturbed.curve
    for name, tensor in undisturbed.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[name], tensor)


def test_refit_does_not_use_the_held_out_fold(tmp_path: Path) -> None:
    """Neither its labels, nor what other folds' networks, which saw it, say of the number of epochs."""
    faces = made_faces(300, folds=3)
    experiment = train_folds(tmp_path, faces)
    run_refit(tmp_path, experiment, faces, 1, Attempt(refit_dir(tmp_path, experiment.id, 1)), CPU)
    path = refit_dir(tmp_path, experiment.id, 1) / OUT_OF_FOLD
    honest = read_npz(path)
    others = fold_dir(tmp_path, experiment.id, 0) / METRICS
    write_json(others, {**read_json(others), "best_epochs": [1, 1]})
    left_out = faces.fold == 1
    blinded = replace(
        faces,
        age_low=np.where(left_out, 3, faces.age_low).astype(np.float32),
        age_high=np.where(left_out, 3, faces.age_high).astype(np.float32),
        gender=np.where(left_out, 0, faces.gender).astype(np.int8),
    )
    run_refit(tmp_path, experiment, blinded, 1, Attempt(refit_dir(tmp_path, experiment.id, 1)), CPU)
    for name, values in read_npz(path).items():
        np.testing.assert_array_equal(values, honest[name])
    assert best_epoch(tmp_path, experiment, [0]) == 1


def test_the_better_way_out_of_fold_is_selected_and_the_folds_banks_where_they_are_equal() -> None:
    figures = {"age": {"nll": 3.0}, "gender": {"nll": 0.25}}
    better = {"age": {"nll": 3.125}, "gender": {"nll": 0.0625}}
    assert compared(figures, better) == {"chosen": "all", "nll": {"folds": 3.25, "all": 3.1875}}
    assert compared(better, figures)["chosen"] == "folds"
    assert compared(figures, figures)["chosen"] == "folds"


def served_head(data_dir: Path, versions: dict[str, str], task: Task) -> Head:
    return load_head(heads_directory(data_dir / "models", task, SPACE) / versions[task.value])


def test_bank_on_all_faces_is_served_with_the_calibration_of_its_way_of_training(tmp_path: Path) -> None:
    experiment = train_folds(tmp_path, made_faces(400, folds=3))
    with pytest.raises(Problem, match="not finished"):
        promote(tmp_path, experiment)
    end(tmp_path, experiment)
    status = EXPERIMENTS.status(tmp_path, experiment)
    assert [refit.fold for refit in status.refits] == [0, 1, 2, None]
    assert {refit.state for refit in status.refits} == {"finished"}

    directory = experiment_dir(tmp_path, experiment.id)
    report = read_json(directory / "report.json")
    nll = report["served"]["nll"]
    assert report["served"]["chosen"] == "all" and nll["all"] < nll["folds"]
    for form in ("md", "html"):
        text = (directory / f"report.{form}").read_text()
        assert "networks trained on all faces" in text
        assert f"{nll['all']:.4f}" in text and f"{nll['folds']:.4f}" in text

    assert not awaits_promotion(tmp_path, experiment)
    asked = experiment.model_copy(update={"promote": True})
    assert awaits_promotion(tmp_path, asked)
    versions = promote(tmp_path, experiment)
    assert not awaits_promotion(tmp_path, asked)
    refits = read_out_of_fold(
        tmp_path, experiment, [refit_dir(tmp_path, experiment.id, fold) for fold in FOLDS]
    )
    for task, classes in OPTIONS.tasks:
        manifest = served_head(tmp_path, versions, task).manifest
        assert manifest.members == len(FOLDS) * OPTIONS.seeds
        calibration = calibrate(refits, task, classes, np.ones(len(refits.faces), dtype=bool))
        assert manifest.temperature == round(calibration.temperature, 6)
        assert manifest.card["served"]["nll"] == nll
        assert manifest.card["metrics"]["nll"] == report["served"]["out_of_fold"][task.value]["nll"]

    promoted = served_head(tmp_path, versions, Task.AGE)
    older = tmp_path / "older" / "age" / SPACE.id / promoted.manifest.version
    networks = {name: promoted.tensors[name] for name in promoted.manifest.shapes}
    save_head(older, promoted.manifest.model_copy(update={"familiarity": False}), networks)
    renewed = with_familiarity(older, tmp_path)
    assert renewed.manifest == promoted.manifest and promoted.manifest.familiarity
    for name, tensor in promoted.tensors.items():
        np.testing.assert_array_equal(renewed.tensors[name], tensor)
    data = data_path(tmp_path, "made", SPACE, "images")
    data.write_bytes(data.read_bytes() + b"changed")
    with pytest.raises(SystemExit, match="no file has the SHA-256"):
        with_familiarity(older, tmp_path)

    # If the comparison has the other result, the folds' banks are served, under another version.
    write_json(directory / "report.json", {**report, "served": {**report["served"], "chosen": "folds"}})
    write_json(directory / "final" / "metrics.json", {"chosen": "folds", "nll": nll})
    assert awaits_promotion(tmp_path, asked)
    folds = promote(tmp_path, experiment)
    assert not set(folds.values()) & set(versions.values())
    card = served_head(tmp_path, folds, Task.AGE).manifest.card
    assert card["metrics"]["nll"] == report["out_of_fold"]["age"]["nll"]
    assert card["served"]["chosen"] == "folds"
    assert card["data"]["second_embedding"] == {"made": "mirrored"}


def test_bank_on_all_faces_has_no_more_networks_than_a_head_s_file_can_hold() -> None:
    wide = {
        "input.mean": np.zeros((2, 1000), np.float32),
        "output.weight": np.zeros((2, 1000, 103), np.float32),
    }
    wide["output.bias"] = np.zeros((2, 103), np.float32)
    assert ensemble_size(wide, OPTIONS, folds=1000) == MAX_BYTES // (2 * (1000 + 2 * 1000 + 2))
    assert ensemble_size(wide, OPTIONS, folds=3) == 6


def test_ensemble_of_folds_keeps_a_network_of_each_as_long_as_the_predictor_loads_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = {
        "input.mean": np.zeros((2, 1000), np.float32),
        "output.weight": np.zeros((2, 1000, 900), np.float32),
    }
    megabytes = sum(2 * tensor[0].size for tensor in bank.values()) / 1e6
    assert len(ensemble([bank])["input.mean"]) == 2
    many = ensemble([bank] * 5)
    assert len(many["input.mean"]) == 5 and 5 * megabytes > MAX_BYTES / 1e6
    monkeypatch.setattr("trainer.experiments.promote.MAX_WEIGHT_BYTES", round(4.5 * megabytes * 1e6))
    assert len(ensemble([bank] * 5)["input.mean"]) == 3  # about a megabyte is left for all else
