"""Results for other programs: tables for CSV readers, pyarrow and a notebook; heads for ONNX Runtime."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from agegender.files import read_json
from agegender.heads.calibration import ConformalIntervals, mean_years
from agegender.heads.head import Classes, Head, HeadManifest, Task, over_years
from agegender.heads.networks import Mlp, ResMlp
from agegender.labels import AGE_GROUP_NAMES, group_probabilities
from trainer.app import create_trainer
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.experiments.experiment import experiment_dir, load_experiment, save_experiment
from trainer.experiments.onnx_graph import as_onnx
from trainer.experiments.predictions import COLUMNS, Prediction, experiment_columns
from trainer.experiments.promote import built_heads, promote
from trainer.jobs import write_report
from trainer.settings import TrainerSettings

from tests.support.made_faces import SPACE, made_faces
from tests.support.serving import serving
from tests.support.trained_experiments import trained_experiment

DOCS = Path(__file__).parents[2] / "docs"
AWKWARD = ['25/a "b", c.jpg', "=1+1.jpg", "new\nline.jpg", "été.jpg", " .jpg"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train `table` on 120 faces: some with awkward names, a range of ages, or an unknown label."""
    data_dir = tmp_path_factory.mktemp("trained")
    faces = made_faces(120, folds=3)
    file = np.array([*AWKWARD, *faces.file[len(AWKWARD) :]])
    faces.age_low[0], faces.age_high[0] = 25, 32
    faces.age_low[1] = faces.age_high[1] = np.nan
    faces.gender[2] = -1
    faces.subject[3] = ""
    faces = replace(faces, file=file)
    trained_experiment(data_dir, "table", "made", faces)
    return data_dir


@pytest.fixture(scope="module")
def trainer(trained: Path) -> Iterator[httpx.Client]:
    settings = TrainerSettings(data_dir=trained, redis_url="redis://127.0.0.1:1/0", reconcile_seconds=60)
    with serving(create_trainer(settings)) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http


def rows_of(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))


def test_each_face_has_one_row_with_its_labels_and_its_out_of_fold_prediction(
    trainer: httpx.Client, trained: Path
) -> None:
    found = [Prediction.model_validate(row) for row in trainer.get("/experiments/table/predictions").json()]
    by_file = {row.file: row for row in found}
    assert len(by_file) == len(found) == 120 and set(AWKWARD) <= set(by_file)
    first, no_age, no_gender, no_subject = (by_file[name] for name in AWKWARD[:4])
    assert (first.true_age, first.true_age_low, first.true_age_high) == (28.5, 25, 32)
    assert no_age.true_age is None and no_age.mean is not None
    assert no_gender.true_gender is None and no_gender.p_female is not None
    assert no_subject.subject is None and first.subject == "0"
    assert {row.fold for row in found} == {0, 1, 2} and all(row.out_of_fold for row in found)
    report = read_json(experiment_dir(trained, "table") / "report.json")["out_of_fold"]
    exact = [row for row in found if row.true_age is not None and row.true_age_low == row.true_age_high]
    error = np.mean([abs((row.mean or 0) - (row.true_age or 0)) for row in exact])
    assert error == pytest.approx(report["age"]["mae"], abs=1e-3)
    known = [row for row in found if row.true_gender is not None]
    right = np.mean([((row.p_female or 0) > 0.5) == (row.true_gender == "female") for row in known])
    assert right == pytest.approx(report["gender"]["accuracy"])
    aged = [row for row in found if row.true_age is not None]
    inside = [
        (row.interval_low or 0) <= (row.true_age_high or 0)
        and (row.true_age_low or 0) <= (row.interval_high or 0)
        for row in aged
    ]
    covered = np.mean(inside)
    assert covered == pytest.approx(report["age"]["coverage"], abs=1e-3)
    assert {row.group for row in found} <= set(AGE_GROUP_NAMES)


def test_csv_json_and_parquet_have_the_same_rows(trainer: httpx.Client) -> None:
    listed: list[dict[str, Any]] = trainer.get("/experiments/table/predictions").json()
    answer = trainer.get("/experiments/table/predictions", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="predictions-table.csv"'
    rows = rows_of(answer)
    assert list(rows[0]) == list(COLUMNS)
    assert [row["file"] for row in rows] == [row["file"] for row in listed]
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in listed]
    assert [{**row, "out_of_fold": row["out_of_fold"].capitalize()} for row in rows] == texts
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow: pip install pyarrow")
    content = trainer.get("/experiments/table/predictions?format=parquet").content
    assert parquet.read_table(io.BytesIO(content)).to_pylist() == listed


def test_parquet_without_its_library_is_rejected_with_the_command_that_installs_it(
    trainer: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = trainer.get("/experiments/table/predictions?format=parquet")
    assert answer.status_code == 501 and "pip install pyarrow" in answer.json()["detail"]


def test_report_job_writes_the_table_that_is_computed_otherwise(
    trainer: httpx.Client, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = trainer.get("/experiments/table/predictions").json()
    data_dir = Path(shutil.copytree(trained, tmp_path / "data"))
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    write_report("table")
    assert (experiment_dir(data_dir, "table") / "predictions.csv").exists()
    columns = experiment_columns(data_dir, load_experiment(data_dir, "table"))
    stored = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert stored == computed


def test_notebook_of_the_docs_draws_a_figure_from_the_table(
    trainer: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    answer = trainer.get("/experiments/table/predictions?format=csv")
    (tmp_path / "predictions.csv").write_bytes(answer.content)
    cells = json.loads((DOCS / "predictions.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert 8 <= len([line for line in "\n".join(code).splitlines() if line]) <= 10
    names: dict[str, Any] = {}
    for source in code:
        exec(compile(source, "predictions.ipynb", "exec"), names)
    with (tmp_path / "predictions.png").open("rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert len(names["rows"]) == 119 and 0 < names["error"] < 60


def test_experiment_without_a_finished_fold_has_no_predictions(trainer: httpx.Client, trained: Path) -> None:
    save_experiment(trained, load_experiment(trained, "table").model_copy(update={"id": "begun"}))
    answer = trainer.get("/experiments/begun/predictions")
    assert answer.status_code == 409 and answer.json()["type"].endswith(":not-finished")


def onnx_outputs(content: bytes, faces: EmbeddingSet) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what plain ONNX Runtime computes, by output, and the metadata."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"embedding": faces.embedding}), strict=True))
    return found, session.get_modelmeta().custom_metadata_map


def require_equal(found: dict[str, Any], heads: Iterable[Head], faces: EmbeddingSet, coverage: float) -> None:
    for head in heads:
        probabilities = head.probabilities(faces.embedding)
        if head.manifest.task is Task.GENDER:
            np.testing.assert_allclose(found["gender_probabilities"], probabilities, atol=1e-4)
            continue
        years = over_years(probabilities, head.manifest.classes)
        np.testing.assert_allclose(found["age_probabilities"], years, atol=1e-4)
        np.testing.assert_allclose(found["age_mean"], mean_years(years), atol=1e-4)
        np.testing.assert_allclose(found["age_groups"], group_probabilities(years), atol=1e-4)
        if head.manifest.conformal is None:
            assert "age_interval" not in found
            continue
        familiarity = head.familiarity(faces.embedding)
        assert (familiarity is None) == ("familiarity" not in found)
        if familiarity is not None:
            np.testing.assert_allclose(found["familiarity"], familiarity, atol=1e-4)
            assert familiarity.min() < 0.5 < familiarity.max()  # so that some intervals are extended
        ends = np.stack(head.intervals(years, faces.embedding, coverage), axis=1)
        # A quantile moves by the error of the cumulative distribution divided by the density there.
        np.testing.assert_allclose(found["age_interval"], ends, atol=1e-4, rtol=1e-5)


def test_onnx_graph_answers_as_the_served_heads_in_plain_onnx_runtime(
    trainer: httpx.Client, trained: Path
) -> None:
    faces = made_faces(500, seed=3)
    answer = trainer.get("/experiments/table/onnx?coverage=0.8")
    assert answer.status_code == 200, answer.text
    found, metadata = onnx_outputs(answer.content, faces)
    heads = {head.manifest.task: head for head in built_heads(trained, load_experiment(trained, "table"))}
    require_equal(found, heads.values(), faces, 0.8)
    assert len(found) == 6 and json.loads(metadata["coverage"]) == 0.8
    assert json.loads(metadata["versions"]) == {"age": "table-age", "gender": "table-gender"}
    cards = json.loads(metadata["cards"])
    assert cards["age"]["experiment"] == "table" and "metrics" in cards["gender"]
    assert trainer.get("/experiments/served/onnx?space=made-1").status_code == 422
    promote(trained, load_experiment(trained, "table"))
    try:
        served = trainer.get("/experiments/served/onnx?space=made-1")
        assert onnx_outputs(served.content, faces)[1]["versions"] == metadata["versions"]
        assert trainer.get("/experiments/served/onnx?space=other").status_code == 422
    finally:
        shutil.rmtree(trained / "models")
    assert trainer.get("/experiments/none/onnx").status_code == 404
    assert trainer.get("/experiments/table/onnx?coverage=1").status_code == 422


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("classes", [Classes.YEARS, Classes.GROUPS])
@pytest.mark.parametrize(
    "architecture", [Mlp(hidden=(8,), activation="relu", norm=False), Mlp(hidden=()), ResMlp()]
)
def test_onnx_graph_of_each_architecture_is_the_head(
    architecture: Mlp | ResMlp, classes: Classes, temperature: float
) -> None:
    draws = np.random.default_rng(5)
    manifest = HeadManifest(
        task=Task.AGE, space=SPACE, version="v1", classes=classes, members=3, architecture=architecture,
        temperature=temperature, weights_sha256="",
    )  # fmt: skip
    tensors = {
        name: (draws.standard_normal(shape) * 0.3).astype(np.float16).astype(np.float32)
        for name, shape in manifest.shapes.items()
    }
    tensors["input.std"] = np.full(tensors["input.std"].shape, 0.25, np.float32)
    faces = made_faces(200, seed=4)
    years = over_years(Head(manifest, tensors).probabilities(faces.embedding), classes)
    ages = faces.age_low.astype(np.float64)
    for conformal in (None, ConformalIntervals.fit(years, ages, ages)):
        head = Head(manifest.model_copy(update={"conformal": conformal}), tensors)
        for coverage in (0.5, 0.9):
            found, _ = onnx_outputs(as_onnx({Task.AGE: head}, coverage), faces)
            require_equal(found, [head], faces, coverage)
