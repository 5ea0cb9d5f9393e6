"""Evaluations: heads are judged on faces that they never saw, and calibrated on them as new versions."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.files import read_json
from agegender.heads.calibration import mean_years
from agegender.heads.head import Task, heads_directory, load_head, read_current
from prometheus_client.parser import text_string_to_metric_families
from trainer.datasets.embedding_set import EmbeddingSet, write_embedding_set
from trainer.evaluations.evaluation import evaluation_dir
from trainer.experiments.experiment import load_experiment
from trainer.experiments.promote import promote
from trainer.jobs import judge_heads

from tests.support.made_faces import SPACE, in_decades, made_faces
from tests.support.trained_experiments import trained_experiment


def with_hashes(faces: EmbeddingSet, seed: int) -> EmbeddingSet:
    """Return the faces with hashes of image files, which are those of no other seed."""
    draws = np.random.default_rng(seed)
    return replace(
        faces,
        file_sha256=draws.integers(0, 256, (len(faces), 32)).astype(np.uint8),
        image_hash=draws.integers(0, 256, (len(faces), 64)).astype(np.uint8),
        photograph=np.arange(len(faces), dtype=np.int32),
        subject=np.char.add(f"{seed}-", faces.subject),
    )


def older(faces: EmbeddingSet, years: float) -> EmbeddingSet:
    """Return the faces labelled as older: a domain in which the heads take everybody for too young."""
    age = np.minimum(faces.age_low + np.float32(years), 100)
    return replace(faces, age_low=age, age_high=age.copy())


def rows(faces: EmbeddingSet, count: int) -> EmbeddingSet:
    return faces.rows(np.arange(count))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`big` learnt from `large` and is promoted; `alike`, `older` and `few` are other people."""
    data_dir = tmp_path_factory.mktemp("trained")
    large = with_hashes(made_faces(400, folds=3), 1)
    trained_experiment(data_dir, "big", "large", large)
    promote(data_dir, load_experiment(data_dir, "big"))
    other = with_hashes(made_faces(300, seed=7), 2)
    half = with_hashes(made_faces(300, seed=8), 3)
    elders = older(with_hashes(made_faces(300, seed=9), 4), 20)
    half.file_sha256[:40] = large.file_sha256[:40]
    for name, faces in {
        "alike": other,
        "older": elders,
        "few": rows(other, 49),
        "enough": rows(older(with_hashes(made_faces(60, seed=10), 5), 20), 60),
        "half": half,
        "one-exact": in_decades(other, [0]),
        "some-exact": in_decades(other, list(range(60))),
    }.items():
        write_embedding_set(data_dir, name, "images", faces, {"kind": "made up"})
    return data_dir


def evaluated(trainer: httpx.Client, dataset: str, **options: Any) -> dict[str, Any]:
    """Create an evaluation and do its job in this process; return its status."""
    answer = trainer.post("/evaluations", json={"dataset": dataset, **options})
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "queued"
    judge_heads(answer.json()["id"])
    status: dict[str, Any] = trainer.get(f"/evaluations/{answer.json()['id']}").json()
    assert status["state"] == "finished", status
    return status


def refusal(trainer: httpx.Client, dataset: str, **options: Any) -> tuple[int, str]:
    answer = trainer.post("/evaluations", json={"dataset": dataset, **options})
    return answer.status_code, answer.json()["detail"]


def head(data_dir: Path, task: Task, version: str) -> Any:
    return load_head(heads_directory(data_dir / "models", task, SPACE) / version)


def coverages(trainer: httpx.Client) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(trainer.get("/metrics").text)
    return {
        (sample.name.removeprefix("trainer_evaluation_"), sample.labels["data_set"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("trainer_evaluation_")
    }


def test_served_heads_are_judged_on_faces_that_they_never_saw(trainer: httpx.Client, data_dir: Path) -> None:
    status = evaluated(trainer, "alike")
    assert status["versions"] == {"age": "big-age", "gender": "big-gender"} and status["warnings"] == []
    faces = with_hashes(made_faces(300, seed=7), 2)
    age = head(data_dir, Task.AGE, "big-age")
    years = age.probabilities(faces.embedding)
    low, high = age.intervals(years, faces.embedding, 0.9)
    result = status["results"]["age"]
    assert result["mae"] == pytest.approx(np.abs(mean_years(years) - faces.age_low).mean(), rel=1e-5)
    assert result["coverage"] == pytest.approx(np.mean((low <= faces.age_low) & (faces.age_low <= high)))
    assert result["coverage"] < result["coverage_upper"] <= 1 and result["faces"] == 300
    females = head(data_dir, Task.GENDER, "big-gender").probabilities(faces.embedding)
    right = np.mean(females.argmax(axis=1) == faces.gender)
    assert status["results"]["gender"]["accuracy"] == pytest.approx(right)
    report = trainer.get(f"/evaluations/{status['id']}/report?format=md").text
    for title in ("Here and on its own data: age", "By age group and gender: age", "Confusion: gender"):
        assert f"## {title}" in report
    assert all(sentence in report for sentence in status["recommendation"])
    assert "out of fold" in status["recommendation"][0]
    assert "<svg" in trainer.get(f"/evaluations/{status['id']}/report?format=html").text
    table = trainer.get(f"/evaluations/{status['id']}/predictions").json()
    assert len(table) == 300 and table[0]["mean"] == pytest.approx(float(mean_years(years)[0]), abs=1e-3)
    assert trainer.get("/evaluations").json() == [status]


@pytest.mark.parametrize(
    ("dataset", "exact", "first", "second"),
    [
        (
            "one-exact",
            1,
            "The age group is wrong for",
            "Only 1 of these 300 faces has an exact age: the mean",
        ),
        ("some-exact", 60, "The age is wrong by", "Its 90% intervals"),
    ],
)
def test_error_in_years_states_on_how_many_exact_ages_it_was_measured(
    trainer: httpx.Client, dataset: str, exact: int, first: str, second: str
) -> None:
    status = evaluated(trainer, dataset)
    assert (status["results"]["age"]["exact_faces"], status["results"]["age"]["faces"]) == (exact, 300)
    sentences = status["recommendation"]
    assert sentences[0].startswith(first) and sentences[1].startswith(second)
    if exact == 60:
        assert "on average, on the 60 of 300 faces that have an exact age" in sentences[0]
    report = trainer.get(f"/evaluations/{status['id']}/report?format=md").text
    assert f"| faces with an exact age | {exact} | 400 |" in report


def test_experiment_that_is_not_promoted_is_judged_as_a_promotion_would_serve_it(
    trainer: httpx.Client, data_dir: Path
) -> None:
    shutil.rmtree(data_dir / "models")
    assert refusal(trainer, "alike")[0] == 422
    status = evaluated(trainer, "alike", head="big")
    promote(data_dir, load_experiment(data_dir, "big"))
    assert status["results"] == evaluated(trainer, "alike")["results"]


def test_heads_are_not_judged_on_faces_that_they_were_trained_on(
    trainer: httpx.Client, data_dir: Path
) -> None:
    code, detail = refusal(trainer, "large")
    assert code == 422 and "big-age" in detail and "trained or calibrated on large" in detail
    shutil.copytree(data_dir / "large", data_dir / "renamed")
    assert refusal(trainer, "renamed")[0] == 422
    code, detail = refusal(trainer, "half")
    assert code == 422 and "trained on 40 of these faces, such as half/00000.jpg" in detail
    # The content decides, also where the experiment's record is gone.
    shutil.rmtree(data_dir / "experiments" / "big")
    assert refusal(trainer, "half")[0] == 422 and refusal(trainer, "renamed")[0] == 422
    shutil.rmtree(data_dir / "large")
    warnings = evaluated(trainer, "alike")["warnings"]
    assert any("not checked" in text and "large" in text for text in warnings)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"dataset": "none"}, "dataset"),
        ({"dataset": "../etc"}, "dataset"),
        ({"dataset": "alike", "head": "x"}, "head"),
        ({"dataset": "alike", "head": "evaluation-x"}, "head"),
        ({"dataset": "alike", "head": "../big"}, "head"),
        ({"dataset": "alike", "space": "other"}, "dataset"),
        ({"dataset": "alike", "heads": "x"}, "heads"),
    ],
)
def test_wrong_request_is_rejected_and_names_the_field(
    trainer: httpx.Client, request_: dict[str, str], field: str
) -> None:
    answer = trainer.post("/evaluations", json=request_)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"].endswith(field)


def test_calibration_makes_a_version_that_names_its_base_and_covers_the_domain(
    trainer: httpx.Client, data_dir: Path
) -> None:
    before = evaluated(trainer, "older")
    assert before["results"]["age"]["coverage"] < 0.8
    advice = " ".join(before["recommendation"])
    assert "too narrow here" in advice and "agegender calibrate older" in advice
    assert "years too young" in advice
    status = evaluated(trainer, "older", calibrate=True)
    result = status["results"]["age"]
    assert result["coverage"] == before["results"]["age"]["coverage"]
    assert result["coverage_after"] == pytest.approx(0.9, abs=0.05)
    new, base = (head(data_dir, Task.AGE, result[name]) for name in ("new_version", "version"))
    card = new.manifest.card["calibrated"]
    assert (card["base"], card["sets"], card["faces"]) == ("big-age", ["older"], 300)
    weights = [name for name in base.tensors if not name.startswith("familiarity.")]
    assert weights and all(np.array_equal(new.tensors[name], base.tensors[name]) for name in weights)
    older_faces = older(with_hashes(made_faces(300, seed=9), 4), 20).embedding
    assert np.median(new.familiarity(older_faces)) == pytest.approx(0.5, abs=0.05)
    report = read_json(evaluation_dir(data_dir, status["id"]) / "report.json")["calibration"]["age"]
    assert report["before"]["coverage"] == result["coverage"]
    assert report["after"]["nll"] < report["before"]["nll"]
    current = heads_directory(data_dir / "models", Task.AGE, SPACE)
    assert read_current(current).version == "big-age"  # type: ignore[union-attr]
    served = trainer.post(f"/evaluations/{status['id']}/promote")
    assert served.json() == {task: one["new_version"] for task, one in status["results"].items()}
    assert read_current(current).version == result["new_version"]  # type: ignore[union-attr]
    # The faces that calibrated it do not judge it.
    assert "calibrated on older" in refusal(trainer, "older")[1]
    after = evaluated(trainer, "alike")
    assert after["versions"]["age"] == result["new_version"]


def test_fifty_faces_are_enough_for_a_calibration_and_fewer_are_not(trainer: httpx.Client) -> None:
    code, detail = refusal(trainer, "few", calibrate=True)
    assert code == 422 and "at least 50 faces of known age" in detail and "49 faces" in detail
    result = evaluated(trainer, "enough", calibrate=True)["results"]["age"]
    assert abs(result["coverage_after"] - 0.9) < abs(result["coverage"] - 0.9)


def test_calibration_of_a_head_that_is_not_served_replaces_the_served_one_only_by_force(
    trainer: httpx.Client, data_dir: Path
) -> None:
    status = evaluated(trainer, "older", calibrate=True)
    first = trainer.post(f"/evaluations/{status['id']}/promote").json()
    again = evaluated(trainer, "enough", head="big", calibrate=True)
    refused = trainer.post(f"/evaluations/{again['id']}/promote")
    assert refused.status_code == 409 and first["age"] in refused.json()["detail"]
    assert trainer.post(f"/evaluations/{again['id']}/promote?force=true").status_code == 200
    plain = evaluated(trainer, "alike", head="big")
    assert trainer.post(f"/evaluations/{plain['id']}/promote").status_code == 409


def test_coverage_of_the_served_interval_is_a_metric_of_each_evaluated_data_set(
    trainer: httpx.Client, data_dir: Path
) -> None:
    assert coverages(trainer) == {}
    first, second = evaluated(trainer, "older"), evaluated(trainer, "alike")
    found = coverages(trainer)
    for status, name in ((first, "older"), (second, "alike")):
        result = status["results"]["age"]
        assert found["coverage", name] == result["coverage"] and found["faces", name] == 300
        assert found["coverage_upper", name] == result["coverage_upper"]
        assert found["stated_coverage", name] == 0.9
    assert found["coverage_upper", "older"] < 0.9 <= found["coverage_upper", "alike"]
    calibration = evaluated(trainer, "older", calibrate=True)
    trainer.post(f"/evaluations/{calibration['id']}/promote")
    assert coverages(trainer) == {}  # of the head that was served before
    path = evaluation_dir(data_dir, first["id"]) / "result.json"
    path.write_text("{")
    assert trainer.get("/metrics").status_code == 200


def test_evaluation_that_is_interrupted_or_fails_is_resumed_and_deleted_as_other_runs(
    trainer: httpx.Client, data_dir: Path
) -> None:
    created = trainer.post(
        "/evaluations", json={"dataset": "alike"}, headers={"Idempotency-Key": "one"}
    ).json()
    again = trainer.post("/evaluations", json={"dataset": "alike"}, headers={"Idempotency-Key": "one"}).json()
    assert again["id"] == created["id"]
    path = f"/evaluations/{created['id']}"
    assert trainer.get(f"{path}/predictions").status_code == 409
    weights = data_dir / "models" / "age" / SPACE.id / "big-age" / "head.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    judge_heads(created["id"])
    failed = trainer.get(path).json()
    assert failed["state"] == "failed" and "does not have the hash" in failed["problem"]
    weights.write_bytes(content)
    assert trainer.post(f"{path}/resume").json()["state"] in ("queued", "running")
    judge_heads(created["id"])
    assert trainer.get(path).json()["state"] == "finished"
    assert trainer.delete(path).status_code == 200 and trainer.get(path).status_code == 404


def test_prune_keeps_the_evaluations_of_kept_heads_alone(trainer: httpx.Client, data_dir: Path) -> None:
    status = evaluated(trainer, "alike")
    for path in (data_dir / "evaluations").rglob("*"):
        os.utime(path, (0, 0))

    def listed() -> dict[str, str | None]:
        found = trainer.post("/prune?older_than_days=30&dry_run=true").json()["found"]
        return {one["id"]: one["kept"] for one in found if one["kind"] == "evaluation"}

    assert "alike" in (listed()[status["id"]] or "")
    shutil.rmtree(data_dir / "models")
    assert listed() == {status["id"]: None}
    trainer.post("/prune?older_than_days=30")
    assert trainer.get(f"/evaluations/{status['id']}").status_code == 404
