"""Images inside tables (Parquet, pixels) or cut out for the boxes of faces (LAGENDA)."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.labels import Gender
from PIL import Image
from trainer.datasets.formats import format_of, require_format, tables
from trainer.datasets.importing import propose, write_labels
from trainer.datasets.labels import LabelledImage, LabelRow, Reason, Removed, checked_rows
from trainer.datasets.proposals import LabelChoice
from trainer.extraction.extraction import (
    attempt_dir,
    load_extraction,
    save_extraction,
    shard_path,
    work_dir,
)
from trainer.extraction.plan import run_plan, shard_images
from trainer.runs.attempt import Attempt

from tests.support.made_extraction import EXTRACTION

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def read(folder: Path) -> list[LabelRow]:
    label_format = require_format(folder)
    assert label_format.unpack is not None
    label_format.unpack(folder, "images", lambda: None)
    return list(checked_rows(label_format.read(folder, "images"), folder))


def jpeg(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 16), grey).save(file, "JPEG")
    return file.getvalue()


def shard(path: Path, images: Sequence[Any], features: dict[str, Any] | None = None, **columns: Any) -> None:
    """Write a shard as `datasets` does: images as bytes and path, class labels named in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": image, **columns})
    described = {"image": {"_type": "Image"}, **(features or {})}
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)


GENDER = {"gender": {"names": ["female", "male"], "_type": "ClassLabel"}}


def test_parquet_shards_hold_images_and_class_labels(tmp_path: Path) -> None:
    images = [{"bytes": jpeg(10), "path": "0.jpg"}, {"bytes": jpeg(90), "path": None}, None]
    gender = pa.array([0, 1, None], pa.int64())
    shard(tmp_path / "data/train-00000-of-00002.parquet", images, GENDER, age=[25, -1, 40], gender=gender)
    more = [{"bytes": jpeg(200), "path": "x.webp"}]
    shard(
        tmp_path / "data/train-00001-of-00002.parquet",
        more,
        GENDER,
        age=[61],
        gender=pa.array([-1], pa.int64()),
    )
    assert propose(tmp_path).summary == (
        "3 of 4 rows (1 image-missing, e.g. data/train-00000-of-00002.parquet#2)"
    )
    rows = read(tmp_path)
    first = "data/unpacked/train-00000-of-00002"
    assert rows[0] == LabelledImage(f"{first}/0000000.jpg", 25.0, 25.0, Gender.FEMALE)
    assert isinstance(rows[1], LabelledImage)
    assert (rows[1].gender, str(rows[1].age_low)) == (Gender.MALE, "nan")
    assert rows[2] == Removed("data/train-00000-of-00002.parquet#2", Reason.IMAGE_MISSING)
    assert rows[3] == LabelledImage("data/unpacked/train-00001-of-00002/0000000.webp", 61, 61, Gender.UNKNOWN)
    assert (tmp_path / f"{first}/0000000.jpg").read_bytes() == jpeg(10)
    result = write_labels(tmp_path)
    assert (result.usable, result.format) == (3, "table")
    assert read(tmp_path)[0].file == f"{first}/0000000.jpg"


def test_parquet_files_without_images_name_where_their_writer_had_them(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": name} for name in ("/home/ann/faces/a.jpg", "C:\\faces\\b.jpg")]
    shard(tmp_path / "train.parquet", images, GENDER, age=[25, 30], gender=[0, 1])
    assert [row.reason for row in read(tmp_path) if isinstance(row, Removed)] == [Reason.IMAGE_NOT_HELD] * 2
    proposal = propose(tmp_path)
    assert proposal.usable == 0
    assert any(
        problem.startswith("train.parquet: ")
        and "holds no images, only the paths" in problem
        and "home/ann/faces/a.jpg" in problem
        and "embed_table_storage" in problem
        for problem in proposal.problems
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    assert write_labels(tmp_path).usable == 1
    (row,) = (row for row in read(tmp_path))
    assert row == LabelledImage("b.jpg", 30.0, 30.0, Gender.MALE)


def test_columns_of_a_parquet_file_can_be_selected(tmp_path: Path) -> None:
    images = [{"bytes": jpeg(grey), "path": f"{grey}.jpg"} for grey in (0, 100)]
    shard(tmp_path / "faces.parquet", images, years=[20.0, 30.5], label=["0", "1"], embedding=[[0.5] * 8] * 2)
    assert format_of(tmp_path) is tables.TABLE
    choice = LabelChoice(age_column="years", gender_column="label", map={"0": "male", "1": "female"})
    proposal = propose(tmp_path, choice)
    assert [(row.age, row.gender) for row in proposal.examples] == [("20", "male"), ("30.5", "female")]
    assert [column.name for column in proposal.columns] == ["image", "years", "label", "embedding"]


def test_a_column_of_another_name_is_listed_and_imported_by_its_values(tmp_path: Path) -> None:
    label = {"label": {"names": ["man", "woman"], "_type": "ClassLabel"}}
    images = [{"bytes": jpeg(grey), "path": f"{grey}.jpg"} for grey in (0, 100)]
    shard(tmp_path / "data/train-00000-of-00001.parquet", images, label, label=pa.array([0, 1], pa.int64()))
    with pytest.raises(Problem, match=r"00001\.parquet' with the columns 'image', 'label'") as caught:
        require_format(tmp_path)
    assert "agegender import NAME" in caught.value.detail
    assert [row.gender for row in propose(tmp_path).examples] == ["male", "female"]
    assert write_labels(tmp_path).usable == 2


def test_a_table_as_parquet_without_images_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    pq.write_table(
        pa.table({"file_name": ["a.jpg"], "age": ["25-32"], "sex": ["f"]}), tmp_path / "metadata.parquet"
    )
    assert read(tmp_path) == [LabelledImage("a.jpg", 25.0, 32.0, Gender.FEMALE)]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 64 + b"PAR1", b"file,age\n"])
def test_a_file_that_is_not_parquet_is_a_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.parquet").write_bytes(content)
    with pytest.raises(Problem, match="cannot be read as Parquet") as caught:
        propose(tmp_path)
    assert caught.value.slug == "bad-labels"


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_parquet_file_is_a_problem_and_nothing_else(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "labels.parquet"
    images = [{"bytes": jpeg(0), "path": "0.jpg"}, {"bytes": None, "path": "/x/b.jpg"}, None] * 20
    shard(path, images, GENDER, age=list(range(60)), gender=[0, 1, None] * 20, name=["x"] * 60)
    content = path.read_bytes()
    random = np.random.default_rng(seed)
    for _ in range(60):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 6)):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:
            propose(tmp_path)
            tables.unpack(tmp_path, ["labels.parquet"], lambda: None)
        except Problem as problem:
            assert problem.slug == "bad-labels"


def test_a_parquet_file_that_repeats_a_large_value_needs_little_memory(tmp_path: Path) -> None:
    first, size, path = np.zeros(100, np.int32), 4 * 1024**2, pa.array(["0.jpg"] * 100)
    repeated = pa.DictionaryArray.from_arrays(first, [b"x" * size])
    image = pa.StructArray.from_arrays([repeated, path], ["bytes", "path"])
    note = pa.DictionaryArray.from_arrays(first, ["x" * size])
    table = pa.table({"image": image, "note": note, "age": [25] * 100})
    options = {"data_page_size": 1024**3, "dictionary_pagesize_limit": 1024**3, "store_schema": False}
    pq.write_table(table, tmp_path / "labels.parquet", **options)
    del repeated, image, note, table
    assert (tmp_path / "labels.parquet").stat().st_size < 1024**2
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    most = 0

    def measured() -> None:
        nonlocal most
        most = max(most, pool.bytes_allocated() - before)

    for _ in tables.read(tmp_path, "images"):
        measured()
    with pytest.raises(Problem, match="repeats its images so often"):
        tables.unpack(tmp_path, ["labels.parquet"], measured)
    assert most < 200 * 1024**2
    assert len(list((tmp_path / "unpacked/labels").iterdir())) <= 3


def test_without_pyarrow_the_package_to_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(tmp_path / "train.parquet", [{"bytes": jpeg(0), "path": "0.jpg"}], age=[25])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert format_of(tmp_path) is tables.TABLE
    with pytest.raises(Problem, match="pip install pyarrow") as caught:
        read(tmp_path)
    assert (caught.value.slug, caught.value.status) == ("parquet-not-installed", 501)


def test_kaggle_pixels_become_images(tmp_path: Path) -> None:
    grey = np.arange(48 * 48) % 256
    pixels = " ".join(map(str, grey))
    lines = [
        "age,ethnicity,gender,img_name,pixels",
        f'1,2,0,20161219203650636.jpg.chip.jpg,"{pixels}"',
        f"26,0,1,20170116184024662.jpg.chip.jpg,{pixels}",
        "30,0,1,20170109213008353.jpg.chip.jpg,1 2 3",
    ]
    (tmp_path / "age_gender.csv").write_text("\n".join(lines) + "\n")
    first, second, third = read(tmp_path)
    assert first == LabelledImage("unpacked/age_gender/0000000.png", 1.0, 1.0, Gender.MALE)
    assert second == LabelledImage("unpacked/age_gender/0000001.png", 26.0, 26.0, Gender.FEMALE)
    assert third == Removed("unpacked/age_gender/0000002.png", Reason.UNREADABLE_IMAGE)
    with Image.open(tmp_path / "unpacked/age_gender/0000000.png") as image:
        assert (image.size, image.mode) == ((48, 48), "L")
        assert np.array_equal(np.asarray(image).ravel(), grey)
    assert propose(tmp_path).usable == 2


def test_lagenda_faces_are_cut_out_with_the_box_in_the_middle(tmp_path: Path) -> None:
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[10:20, 30:40] = 255  # the face of the first person
    (tmp_path / "lag_benchmark").mkdir()
    Image.fromarray(picture).save(tmp_path / "lag_benchmark/a.png")
    columns = "img_name,age,gender,face_x0,face_y0,face_x1,face_y1,person_x0,person_y0,person_x1,person_y1"
    lines = [
        columns,
        "lag_benchmark/a.png,30,M,30,10,40,20,20,5,60,59",
        "lag_benchmark/a.png,-1,-1,3,3,14,14,60,10,79,59",  # a person whose labels nobody voted on
        "lag_benchmark/a.png,20,F,-1,-1,-1,-1,1,1,20,59",  # a person without a face
        "lag_benchmark/a.png,-1,F,0,0,8,8,1,1,20,59",
        "lag_benchmark/b.png,20,F,1,1,8,8,1,1,20,59",
    ]
    (tmp_path / "lagenda_annotation.csv").write_text("\n".join(lines) + "\n")
    rows = read(tmp_path)
    place = "unpacked/lagenda_annotation"
    assert rows[0] == LabelledImage(f"{place}/0000000.jpg", 30.0, 30.0, Gender.MALE)
    assert [row.reason for row in rows if isinstance(row, Removed)] == [
        Reason.NO_AGE,
        Reason.NO_FACE,
        Reason.IMAGE_MISSING,
    ]
    assert isinstance(rows[3], LabelledImage) and rows[3].gender is Gender.FEMALE
    with Image.open(tmp_path / f"{place}/0000000.jpg") as crop:
        bright = np.argwhere(np.asarray(crop.convert("L")) > 128)
    assert crop.size == (20, 20)
    assert np.abs(bright.mean(axis=0) - 9.5).max() < 1
    assert (tmp_path / f"{place}/0000003.jpg").is_file()  # at the border of the image


def test_an_image_outside_is_not_cut_out(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    Image.new("RGB", (50, 50)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    rows = "".join(f"{name},30,M,1,1,20,20\n" for name in ("../secret.png", "link.png"))
    (folder / "annotations.csv").write_text("img_name,age,gender,face_x0,face_y0,face_x1,face_y1\n" + rows)
    assert {row.reason for row in read(folder) if isinstance(row, Removed)} <= {
        Reason.IMAGE_MISSING,
        Reason.BAD_FILE_NAME,
    }
    assert not list(folder.glob("unpacked/**/*.jpg"))


def test_images_of_an_earlier_table_are_replaced_and_those_of_an_attempt_kept(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    shard(path, [{"bytes": jpeg(10), "path": None}] * 3, age=[1, 2, 3])
    read(tmp_path)
    place = tmp_path / "unpacked/train"
    (place / "0000001.jpg").write_bytes(b"kept")
    (place / "0000002.jpg").unlink()
    read(tmp_path)
    contents = [(place / f"000000{number}.jpg").read_bytes() for number in range(3)]
    assert contents == [jpeg(10), b"kept", jpeg(10)]
    shard(path, [{"bytes": jpeg(200), "path": None}], age=[1])
    read(tmp_path)
    assert sorted(file.name for file in place.iterdir()) == ["0000000.jpg", "table.json"]
    assert (place / "0000000.jpg").read_bytes() == jpeg(200)


def test_an_extraction_unpacks_before_it_plans(tmp_path: Path) -> None:
    extraction = save_extraction(tmp_path, EXTRACTION, run="here", label_format="table")
    folder = tmp_path / extraction.dataset
    shard(folder / "train.parquet", [{"bytes": jpeg(10), "path": None}] * 2, age=[1, 2])
    attempt = Attempt(attempt_dir(tmp_path, extraction) / "plan")
    run_plan(tmp_path, extraction, attempt)
    planned = load_extraction(tmp_path, extraction.name)
    assert (planned.state, planned.images, planned.summary) == ("extracting", 2, "2 of 2 rows can be read")
    images = shard_images(shard_path(work_dir(tmp_path, planned), 0).read_bytes())
    assert all((folder / image.file).read_bytes() == jpeg(10) for image in images)
