"""The steps of an extraction, each alone: plan, progress, catalog, import."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.files import write_json
from agegender.spaces import Space
from trainer.datasets.catalog import datasets
from trainer.datasets.embedding_set import read_embedding_set
from trainer.datasets.formats import published, tables
from trainer.datasets.original import import_original
from trainer.extraction.extraction import (
    Extraction,
    current_attempt,
    load_extraction,
    read_progress,
    save_extraction,
    shard_dir,
)
from trainer.extraction.plan import read_plan, read_removed, read_shard, write_plan
from trainer.runs.attempt import Attempt

from tools.stack import RESEARCH_DATA

SPACE = Space(id="test-1", dimension=8)


def extraction(**changes: Any) -> Extraction:
    fields: dict[str, Any] = {
        "dataset": "faces",
        "label_format": "labels.csv",
        "image_set": "images",
        "space": SPACE,
        "mirrored": False,
        "shard_size": 32,
        "min_det_score": 0.0,
    }
    return Extraction(**{**fields, **changes})


def labels(folder: Path, text: str) -> Path:
    folder.mkdir()
    tables.label_file(folder).write_text(text)
    return folder


def test_a_plan_divides_the_images_and_counts_the_rest(tmp_path: Path) -> None:
    rows = "".join(f"{number}.jpg,{number},f\n" for number in range(70))
    folder = labels(tmp_path / "faces", "file,age,gender\n" + rows + "3.jpg,3,f\nx.jpg,?,f\ny.jpg,,m\n")
    plan = write_plan(tables.FORMAT, folder, "images", 32, tmp_path / "work")
    assert (plan.shards, plan.images) == (3, 71)
    assert plan.removed == {"repeated-row": 1, "no-age": 1}
    assert plan.rows_of_fold == {-1: 72}
    assert read_plan(tmp_path / "work") == plan
    shards = [read_shard(tmp_path / "work", shard) for shard in range(3)]
    assert [len(shard) for shard in shards] == [32, 32, 7]
    assert np.isnan(shards[2][-1].age_low)
    assert [row["file"] for row in read_removed(tmp_path / "work")] == ["3.jpg", "x.jpg"]


def test_the_plan_of_adience_has_the_published_counts(tmp_path: Path) -> None:
    if not (RESEARCH_DATA / "adience").is_dir():
        pytest.skip(f"the Adience label files are not in {RESEARCH_DATA}")
    folder = tmp_path / "Adience"
    (folder / "aligned").mkdir(parents=True)
    for fold in range(published.FOLDS):
        name = published.adience_label_file(folder, fold).name
        (folder / name).write_bytes((RESEARCH_DATA / "adience" / name).read_bytes())
    plan = write_plan(published.ADIENCE, folder, "aligned", 960, tmp_path / "work")
    assert plan.rows_of_fold == {0: 4_484, 1: 3_730, 2: 3_894, 3: 3_446, 4: 3_816}
    assert plan.removed == {"no-age": 748, "no-gender": 1_170, "repeated-row": 117}


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("file,age,gender,fold\na.jpg,3,f,1\nb.jpg,3,f,\n", "some-folds"),
        ("file,age,gender\n", "no-images"),
        ("file,age,gender\na.jpg,,\n", "no-images"),
    ],
)
def test_labels_that_make_no_data_set_are_problems(tmp_path: Path, text: str, slug: str) -> None:
    with pytest.raises(Problem) as caught:
        write_plan(tables.FORMAT, labels(tmp_path / "faces", text), "images", 32, tmp_path / "work")
    assert (caught.value.slug, caught.value.status) == (slug, 422)


def test_adience_without_its_images_reports_it(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="faces/aligned"):
        write_plan(published.ADIENCE, tmp_path / "faces", "aligned", 32, tmp_path / "work")


def test_the_record_survives_and_a_damaged_one_is_a_problem(tmp_path: Path) -> None:
    written = save_extraction(tmp_path, extraction(), state="extracting", images=5)
    assert load_extraction(tmp_path, written.name) == written
    assert current_attempt(tmp_path, written.name, written.attempt_id) == written
    path = tmp_path / "faces" / SPACE.id / "extraction-images.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(Problem, match=r"extraction-images\.json cannot be read") as caught:
        load_extraction(tmp_path, written.name)
    assert caught.value.slug == "unreadable-record"
    assert current_attempt(tmp_path, written.name, written.attempt_id) is None


def test_progress_sums_shards_and_forgets_rates_of_the_dead(tmp_path: Path) -> None:
    running = extraction(state="extracting", images=100, shards=2)
    assert read_progress(tmp_path, running).done == 0
    for shard, (done, rate) in enumerate(((20, 3.0), (5, 2.0))):
        attempt = Attempt(shard_dir(tmp_path, running, shard))
        attempt.write({"done": done, "rate": rate, "at": time.time()})
    progress = read_progress(tmp_path, running)
    assert (progress.done, progress.total, progress.images_per_second) == (25, 100, 5.0)
    assert progress.seconds_left == 75 / 5
    later = read_progress(tmp_path, running, now=time.time() + 120)
    assert (later.done, later.images_per_second, later.seconds_left) == (25, None, None)


def test_only_folders_with_a_data_set_are_listed(tmp_path: Path) -> None:
    labels(tmp_path / "faces", "file,age,gender\n")
    (tmp_path / "models" / "age").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    write_json(tmp_path / "faces" / "test-1" / "meta-data-images.json", {"space": "damaged"})
    (tmp_path / "faces" / "test-1" / "data-images.npz").touch()
    (found,) = datasets(tmp_path)
    assert (found.name, found.kind, found.extracted) == ("faces", "labels.csv", [])
    assert list(datasets(tmp_path / "none")) == []


def test_wiki_of_the_original_gets_folds_and_exact_ages(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    samples = [
        {
            "image_path": f"data/wiki_crop/17/{number}_1981.jpg",
            "age": number,
            "gender": "mf"[number % 2],
            "embedding": generator.normal(size=8).astype(np.float32),
        }
        for number in range(30)
    ]
    (tmp_path / "wiki_crop").mkdir()
    np.save(tmp_path / "wiki_crop" / "data.npy", np.array(samples, dtype=object), allow_pickle=True)
    assert import_original(tmp_path, "wiki_crop", "images", SPACE) == 30
    faces = read_embedding_set(tmp_path, "wiki_crop", SPACE, "images")
    assert faces.age_low.tolist() == list(range(30))
    assert set(faces.fold.tolist()) == {0, 1, 2, 3, 4}
    assert faces.file[3] == "17/3_1981.jpg"
    assert np.allclose(np.linalg.norm(faces.embedding, axis=1), 1)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"cos\nsystem\n(S'true'\ntR."])
def test_a_file_that_is_not_the_original_s_is_a_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "Adience").mkdir()
    (tmp_path / "Adience" / "data-aligned.npy").write_bytes(content)
    with pytest.raises(Problem) as caught:
        import_original(tmp_path, "Adience", "aligned", SPACE)
    assert caught.value.slug == "bad-original"
