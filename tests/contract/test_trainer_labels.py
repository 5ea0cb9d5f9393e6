"""The routes that propose how a folder's labels are read, and write labels.csv."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from trainer.app import create_trainer
from trainer.settings import TrainerSettings

from tests.support.serving import serving


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[httpx.Client]:
    (tmp_path / "My faces").mkdir()
    settings = TrainerSettings(data_dir=tmp_path, redis_url="redis://127.0.0.1:9/0", reconcile_seconds=60)
    with serving(create_trainer(settings)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_labels_are_proposed_corrected_and_written(tmp_path: Path, trainer: httpx.Client) -> None:
    folder = tmp_path / "My faces"
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "people.csv").write_text("photo;years old;sex\na.jpg;25;0\nb.jpg;30;1\n")

    proposed = trainer.get("/datasets/My faces/labels").json()
    assert (proposed["file_column"], proposed["age_column"], proposed["gender_column"]) == (
        "photo",
        None,
        "sex",
    )
    assert (proposed["usable"], proposed["removed"]) == (0, {"gender-not-mapped": 2})

    params = {"age_column": "years old", "map": "0=female,1=male"}
    proposed = trainer.get("/datasets/My faces/labels", params=params).json()
    assert [(row["age"], row["gender"]) for row in proposed["examples"]] == [("25", "female"), ("30", "male")]
    assert not (folder / "labels.csv").exists()

    written = trainer.post("/datasets/My faces/labels", json=params)
    assert (written.status_code, written.json()["written"], written.json()["usable"]) == (
        200,
        "labels.csv",
        2,
    )
    assert (folder / "labels.csv").read_text().splitlines()[1:] == ["a.jpg,25,female,,", "b.jpg,30,male,,"]
    assert trainer.get("/datasets/My faces").json()["format"] == "labels.csv"


def test_what_cannot_be_read_is_answered_with_what_was_found(tmp_path: Path, trainer: httpx.Client) -> None:
    empty = trainer.get("/datasets/My faces/labels")
    assert (empty.status_code, empty.json()["type"].rpartition(":")[2]) == (422, "unknown-dataset")
    assert "It is empty." in empty.json()["detail"]
    assert trainer.get("/datasets/other/labels").status_code == 404
    (tmp_path / "My faces" / "people.csv").write_text("fiel,age\na.jpg,25\n")
    for answer in (trainer.get("/datasets/My faces/labels"), trainer.post("/datasets/My faces/labels")):
        assert answer.status_code == 422
        assert "'fiel': did you mean 'file'?" in answer.json()["detail"]
    unknown = trainer.get("/datasets/My faces/labels", params={"column_file": "x"})
    assert (unknown.status_code, "file_column" in unknown.json()["detail"]) == (422, True)
    assert (
        trainer.get("/datasets/My faces/labels", params={"map": "0=x"}).json()["errors"][0]["field"] == "map"
    )


def test_labels_are_exported_for_hugging_face(tmp_path: Path, trainer: httpx.Client) -> None:
    folder = tmp_path / "My faces"
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    (folder / "labels.csv").write_text("file,age,gender\na.jpg,25,f\n")
    (folder / "metadata.csv").write_text("file_name,text\na.jpg,a face\n")
    refused = trainer.post("/datasets/My faces/labels/export")
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "file-exists")
    exported = trainer.post("/datasets/My faces/labels/export", params={"replace": True}).json()
    assert (exported["written"], exported["rows"]) == ("metadata.csv", 1)
    assert (folder / "metadata.csv").read_text().splitlines()[1] == "a.jpg,25,female,,"
    read_back = trainer.get("/datasets/My faces/labels", params={"hugging_face": True}).json()
    assert (read_back["source"], read_back["usable"]) == (["metadata.csv"], 1)
