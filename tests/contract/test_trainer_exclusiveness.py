"""Near-duplicates and overlapping data sets over HTTP: regroup, look at the groups, be refused, merge."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from trainer.app import create_trainer
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment import load_experiment, merged_subjects
from trainer.extraction.extraction import load_extraction
from trainer.jobs import regroup_faces
from trainer.settings import TrainerSettings

from tests.support.made_faces import made_faces
from tests.support.redis_server import redis_server
from tests.support.serving import serving
from tests.unit.test_regrouping import SPACE, old_extraction


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trainer(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with redis_server(tmp_path_factory.mktemp("redis")) as redis:
        settings = TrainerSettings(data_dir=data_dir, redis_url=redis.url)
        with serving(create_trainer(settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
            yield client


def test_an_old_extraction_is_regrouped_and_its_groups_are_shown(
    trainer: httpx.Client, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_extraction(data_dir)
    first = trainer.get("/datasets/faces/duplicates")
    assert first.status_code == 409 and first.json()["type"].endswith(":no-groups")
    refused = trainer.post("/datasets/faces/regroup", json={"near_duplicates": "persons"})
    assert refused.status_code == 422 and "no-recogniser" in refused.json()["type"]
    started = trainer.post("/datasets/faces/regroup")
    assert (started.status_code, started.json()["state"]) == (202, "planning")
    extraction = load_extraction(data_dir, f"faces/{SPACE.id}/images")
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    regroup_faces(extraction.name, extraction.attempt_id)
    assert trainer.get("/datasets/faces").json()["extractions"][0]["state"] == "finished"
    [group] = trainer.get("/datasets/faces/duplicates").json()
    assert group["files"] == ["0.jpg", "29.jpg"]
    sheet = trainer.get("/datasets/faces/duplicates/sheet", params={"groups": 5})
    assert Image.open(io.BytesIO(sheet.content)).format == "JPEG"
    assert trainer.get("/datasets/faces/duplicates", params={"space": "absent-1"}).status_code == 422


def test_data_sets_of_the_same_people_are_refused_merged_or_allowed(
    trainer: httpx.Client, data_dir: Path
) -> None:
    one = made_faces(100, seed=1)
    other = np.roll(one.fold, 7)
    write_embedding_set(data_dir, "one", "images", one, {})
    write_embedding_set(data_dir, "two", "images", type(one)(**{**vars(one), "fold": other}), {})
    body = {"dataset": ["one", "two"], "folds": [0]}
    for route in ("/experiments", "/searches"):
        asked = {**body} if route == "/experiments" else {"dataset": body["dataset"]}
        refused = trainer.post(route, json=asked)
        assert refused.status_code == 409, refused.text
        assert refused.json()["type"].endswith("overlapping-faces")
        assert refused.json()["found"]["same-subject"]["groups"] == 50
        merged = trainer.post(route, json={**asked, "overlap": "merge"})
        assert merged.status_code == 202, merged.text
        assert merged.json()["warnings"][0].startswith("Merged were 50 names of subjects")
        allowed = trainer.post(route, json={**asked, "overlap": "allow"})
        assert "several folds" in allowed.json()["warnings"][0]
        assert trainer.post(route, json={**asked, "overlap": "perhaps"}).status_code == 422
    experiment = trainer.post("/experiments", json={**body, "overlap": "merge"}).json()["id"]
    path = merged_subjects(data_dir, load_experiment(data_dir, experiment))
    assert path is not None and path.is_file()
