"""Promotion, deletion and cancelling: nothing good is replaced or deleted without a question."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from agegender.files import read_json, write_json
from agegender.heads.calibration import mean_years
from agegender.heads.head import Task, heads_directory, load_head, read_current, set_current
from trainer.experiments.experiment import PROMOTED, experiment_dir, load_experiment, save_experiment
from trainer.experiments.experiment_data import load_faces
from trainer.experiments.promote import promote
from trainer.jobs import serve_better
from trainer.searches.search import Search, save_search, search_dir
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.made_faces import SPACE, in_decades, made_faces
from tests.support.made_heads import promoted_heads
from tests.support.trained_experiments import OPTIONS, trained_experiment

HOPELESS = OPTIONS.model_copy(
    update={"optimizer": OPTIONS.optimizer.model_copy(update={"epochs": 1, "learning_rate": 1e-6})}
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`big` and `again` learnt from the same 400 faces, `few` from 34, `bad` hardly from 400.

    `ranges` learnt from 300 faces of which eight have an exact age.
    """
    data_dir = tmp_path_factory.mktemp("trained")
    trained_experiment(data_dir, "big", "large", made_faces(400, folds=3))
    trained_experiment(data_dir, "again", "large", made_faces(400, folds=3))
    trained_experiment(data_dir, "few", "small", made_faces(34, seed=1, folds=3))
    trained_experiment(data_dir, "bad", "enough", made_faces(400, seed=2, folds=3), HOPELESS)
    ranges = in_decades(made_faces(300, seed=5, folds=3), [0, 50, 51, 100, 101, 150, 200, 201])
    trained_experiment(data_dir, "ranges", "ranges", ranges)
    return data_dir


def served(data_dir: Path) -> dict[str, str]:
    current = {task: read_current(heads_directory(data_dir / "models", task, SPACE)) for task in Task}
    return {task.value: one.version for task, one in current.items() if one is not None}


def slug(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).rpartition(":")[2]


def test_heads_of_few_faces_replace_those_of_many_only_by_force(
    trainer: httpx.Client, data_dir: Path
) -> None:
    assert trainer.get("/experiments/big/comparison").json() == []  # nothing is served yet
    assert trainer.post("/experiments/big/promote?refit=false").status_code == 200
    refused = trainer.post("/experiments/few/promote?refit=false")
    assert refused.status_code == 409 and slug(refused) == "promotion-needs-confirmation"
    assert served(data_dir) == {"age": "big-age", "gender": "big-gender"}
    age, gender = refused.json()["comparisons"]
    assert refused.json()["comparisons"] == trainer.get("/experiments/few/comparison").json()
    # With splits as large as these, some faces validated all banks that did not hold them out.
    assert (age["served_trained_on"], age["new_trained_on"], age["faces"]) == (354, 32, 34)
    assert (age["served_saw"], age["metric"], gender["metric"]) == ("none", "mae", "gender-error")
    assert "fewer-faces" in age["reasons"] and "fewer-faces" in gender["reasons"]
    for text in (
        "354 faces",
        "32",
        f"{age['served_error']:.2f} years",
        f"{age['new_error']:.2f} years",
        "force",
    ):
        assert text in refused.json()["detail"]
    assert trainer.post("/experiments/few/promote?refit=false&force=true").status_code == 200
    assert served(data_dir) == {"age": "few-age", "gender": "few-gender"}
    # What is served of the experiment itself is no reason to ask.
    assert trainer.post("/experiments/few/promote?refit=false").status_code == 200


def test_error_of_the_served_head_is_measured_on_the_same_faces(
    trainer: httpx.Client, data_dir: Path
) -> None:
    promote(data_dir, load_experiment(data_dir, "few"))
    (age, _) = trainer.get("/experiments/big/comparison").json()
    faces = load_faces(data_dir, ["large"], SPACE, "images")
    head = load_head(heads_directory(data_dir / "models", Task.AGE, SPACE) / "few-age")
    error = np.abs(mean_years(head.probabilities(faces.embedding)) - faces.age_low).mean()
    assert age["served_error"] == pytest.approx(error, rel=1e-5)
    report = read_json(experiment_dir(data_dir, "big") / "report.json")
    assert age["new_error"] == pytest.approx(report["out_of_fold"]["age"]["mae"], rel=1e-5)
    assert age["new_error"] < age["served_error"] and age["reasons"] == []


def test_few_exact_ages_do_not_decide_on_a_promotion(trainer: httpx.Client) -> None:
    assert trainer.post("/experiments/big/promote?refit=false").status_code == 200
    age, _ = trainer.get("/experiments/ranges/comparison").json()
    assert (age["metric"], age["faces"]) == ("group-error", 300)
    assert "On 300 faces the share of wrong age groups is" in age["summary"]


def test_error_of_few_faces_is_called_rough(trainer: httpx.Client) -> None:
    assert trainer.post("/experiments/big/promote?refit=false").status_code == 200
    age, gender = trainer.get("/experiments/few/comparison").json()
    assert "On 34 faces with an exact age the mean absolute error is" in age["summary"]
    for one in (age, gender):
        assert one["summary"].endswith("These are few faces, so the errors are rough.")


def test_heads_that_are_worse_on_the_same_faces_are_promoted_only_by_force(
    trainer: httpx.Client, data_dir: Path
) -> None:
    promote(data_dir, load_experiment(data_dir, "big"))
    refused = trainer.post("/experiments/bad/promote?refit=false")
    assert refused.status_code == 409
    assert {reason for one in refused.json()["comparisons"] for reason in one["reasons"]} == {"larger-error"}
    assert served(data_dir)["age"] == "big-age"


def test_experiments_on_the_same_data_are_compared_out_of_fold(trainer: httpx.Client, data_dir: Path) -> None:
    promote(data_dir, load_experiment(data_dir, "big"))
    for one in trainer.get("/experiments/again/comparison").json():
        assert one["both_out_of_fold"] and one["served_saw"] == "all"
        assert one["served_error"] == one["new_error"] and one["reasons"] == []
        assert "both out of fold" in one["summary"]
    manifest = heads_directory(data_dir / "models", Task.AGE, SPACE) / "big-age" / "head.json"
    head = read_json(manifest)
    head["card"]["metrics"]["mae"] /= 1.1
    write_json(manifest, head)
    assert slug(trainer.post("/experiments/again/promote")) == "promotion-needs-confirmation"


def test_error_on_faces_that_the_served_head_was_trained_on_is_no_reason(
    trainer: httpx.Client, data_dir: Path
) -> None:
    promote(data_dir, load_experiment(data_dir, "big"))
    manifest = heads_directory(data_dir / "models", Task.AGE, SPACE) / "big-age" / "head.json"
    head = read_json(manifest)
    head["card"]["data"] = {"sets": ["enough"], "sha256": {"enough": "another extraction"}, "faces": 300}
    write_json(manifest, head)
    age = trainer.get("/experiments/bad/comparison").json()[0]
    assert age["new_error"] > 1.1 * age["served_error"]
    assert age["served_saw"] == "all" and age["reasons"] == [] and "too low" in age["summary"]


def test_heads_that_came_with_the_predictor_are_compared_with_too(
    trainer: httpx.Client, data_dir: Path, tmp_path: Path
) -> None:
    promote(data_dir, load_experiment(data_dir, "big"))
    shutil.move(data_dir / "models", tmp_path / "shipped")
    assert slug(trainer.post("/experiments/few/promote")) == "promotion-needs-confirmation"
    # After a rollback to a shipped head, current.json in the models names it.
    directory = heads_directory(data_dir / "models", Task.AGE, SPACE)
    set_current(directory, "big-age")
    assert trainer.get("/experiments/few/comparison").json()[0]["served"] == "big-age"


def test_head_with_an_empty_card_is_compared_by_its_error(trainer: httpx.Client, data_dir: Path) -> None:
    promoted_heads(data_dir / "models", SPACE, "by-hand")
    age, gender = trainer.get("/experiments/few/comparison").json()
    assert age["served_trained_on"] is None and age["served_saw"] == "unknown"
    assert age["new_error"] < age["served_error"] and age["reasons"] == []
    assert gender["served"] == "by-hand" and "unknown number of" in gender["summary"]


def test_served_experiment_is_not_deleted_until_another_is_promoted(
    trainer: httpx.Client, data_dir: Path
) -> None:
    assert trainer.post("/experiments/big/promote?refit=false").status_code == 200
    refused = trainer.delete("/experiments/big")
    assert refused.status_code == 409 and slug(refused) == "experiment-served"
    assert f"age/{SPACE.id}/big-age" in refused.json()["detail"]
    assert f"gender/{SPACE.id}/big-gender" in refused.json()["served"]
    assert (experiment_dir(data_dir, "big") / "report.json").exists()
    assert trainer.post("/experiments/again/promote?refit=false").status_code == 200
    assert trainer.delete("/experiments/big").json()["state"] == "finished"
    assert not experiment_dir(data_dir, "big").exists()
    assert trainer.delete("/experiments/big").status_code == 404
    # The heads themselves stay, for a rollback.
    assert (heads_directory(data_dir / "models", Task.AGE, SPACE) / "big-age" / "head.json").exists()


def test_refits_do_not_replace_heads_that_were_promoted_meanwhile(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    promote(data_dir, load_experiment(data_dir, "big"))
    asked = load_experiment(data_dir, "big").model_copy(update={"promote": True})
    save_experiment(data_dir, asked)
    (experiment_dir(data_dir, "big") / PROMOTED).unlink()  # as if another bank were the better one
    promote(data_dir, load_experiment(data_dir, "again"))
    serve_better("big")
    assert served(data_dir) == {"age": "again-age", "gender": "again-gender"}
    assert not load_experiment(data_dir, "big").promote  # the decision is made, not put off
    save_experiment(data_dir, asked)
    set_current(heads_directory(data_dir / "models", Task.AGE, SPACE), "big-age")
    set_current(heads_directory(data_dir / "models", Task.GENDER, SPACE), "big-gender")
    serve_better("big")
    assert (experiment_dir(data_dir, "big") / PROMOTED).exists()


def made_search(name: str) -> Search:
    experiment = made_experiment([0, 1], TrainingOptions(), name=name)
    search = {
        "held_out": [1],
        "parameters": {},
        "trials": 2,
        "goal": "nll",
        "inner_folds": 2,
        "pruning": True,
    }
    return Search.model_validate({**experiment.model_dump(), "created": datetime.now(UTC), **search})


def test_cancel_cancels_and_delete_deletes_however_often_they_are_sent(
    trainer: httpx.Client, data_dir: Path
) -> None:
    save_experiment(data_dir, made_experiment([0, 1], TrainingOptions(), name="runs"))
    save_search(data_dir, made_search("search-runs"))
    paths = {
        "/experiments/runs": experiment_dir(data_dir, "runs"),
        "/searches/search-runs": search_dir(data_dir, "search-runs"),
    }
    for path, directory in paths.items():
        refused = trainer.delete(path)
        assert refused.status_code == 409 and slug(refused) == "still-running"
        assert f"POST {path}/cancel" in refused.json()["detail"]
        assert trainer.get(path).json()["state"] == "queued"
        for _ in range(3):
            assert trainer.post(f"{path}/cancel").json()["state"] == "cancelled"
            assert directory.is_dir()
        assert trainer.delete(path).json()["state"] == "cancelled"
        assert not directory.exists()
        for again in (trainer.delete(path), trainer.post(f"{path}/cancel")):
            assert again.status_code == 404
    finished = trainer.post("/experiments/big/cancel")
    assert finished.status_code == 200 and finished.json()["state"] == "finished"
