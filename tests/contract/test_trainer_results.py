"""Results for other programs: predictions as tables that CSV readers, pyarrow and a notebook read."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.files import read_json
from agegender.labels import AGE_GROUP_NAMES
from trainer.app import create_trainer
from trainer.experiments.experiment import experiment_dir, load_experiment, save_experiment
from trainer.experiments.predictions import COLUMNS, Prediction, experiment_columns
from trainer.jobs import write_report
from trainer.settings import TrainerSettings

from tests.support.made_faces import made_faces
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
