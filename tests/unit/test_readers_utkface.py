from pathlib import Path

import pytest
from agegender.labels import Gender
from trainer.datasets.formats import format_of, tables, utkface
from trainer.datasets.labels import LabelledImage, Reason, Removed


def test_labels_stand_in_the_file_names(tmp_path: Path) -> None:
    names = [
        "1_0_0_20161219140530307.jpg.chip.jpg",
        "100_1_2_20170112213500903.jpg",
        "116_1_2_20170112213500903.jpg.chip.jpg",
        "notes.txt",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert format_of(tmp_path) is utkface.FORMAT
    assert list(utkface.read(tmp_path, "images")) == [
        LabelledImage(names[1], 100.0, 100.0, Gender.FEMALE),
        Removed(names[2], Reason.AGE_OUT_OF_RANGE),
        LabelledImage(names[0], 1.0, 1.0, Gender.MALE),
    ]


@pytest.mark.parametrize(
    ("name", "age", "gender"),
    [
        ("55_0_0_20170116232725357jpg.chip.jpg", 55, Gender.MALE),
        ("55_0_0_20170116232725357jpg", 55, Gender.MALE),
        ("55_0_0_20170116232725357JPG", 55, Gender.MALE),
        ("44_1_4_20170116235150272.pg.chip.jpg", 44, Gender.FEMALE),
        ("44_1_4_20170116235150272.pg", 44, Gender.FEMALE),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", 24, Gender.MALE),
        ("14_0_0_2017011022340900.jpg.chip.jpg", 14, Gender.MALE),
        ("28_1_2_201701161846515488.jpg.chip.jpg", 28, Gender.FEMALE),
        ("9_1_3_20161220222856346.JPG", 9, Gender.FEMALE),
        ("9_1_3_20161220222856346.jpeg", 9, Gender.FEMALE),
        ("9_1_3_20161220222856346.PNG", 9, Gender.FEMALE),
        ("39_1_20170116174525125.jpg.chip.jpg", 39, Gender.UNKNOWN),
        ("61_1_20170109142408075.jpg.chip.jpg", 61, Gender.UNKNOWN),
        ("61_3_20170109150557335.jpg", 61, Gender.UNKNOWN),
        ("25_1_0.jpg", 25, Gender.FEMALE),
        ("25_1_17.png", 25, Gender.FEMALE),
        ("53__0_20170116184028385.jpg", 53, Gender.UNKNOWN),
    ],
)
def test_names_that_circulate_are_read_as_far_as_they_go(
    tmp_path: Path, name: str, age: int, gender: Gender
) -> None:
    (tmp_path / name).touch()
    assert list(utkface.read(tmp_path, "images")) == [LabelledImage(name, age, age, gender)]
    assert format_of(tmp_path) is utkface.FORMAT


def test_what_a_name_lacks_is_removed_with_the_true_reason(tmp_path: Path) -> None:
    for name in ("20_1_0_20170101000000000.jpg", "30_3_0_20170101000000001.jpg", "DSC_0001.JPG", ".x.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "21_1_0_20170101000000000.jpg").mkdir()
    assert [row for row in utkface.read(tmp_path, "images") if isinstance(row, Removed)] == [
        Removed("30_3_0_20170101000000001.jpg", Reason.NO_GENDER),
        Removed("DSC_0001.JPG", Reason.NO_AGE),
    ]


def test_an_image_in_several_archives_counts_once_and_as_the_aligned_crop(tmp_path: Path) -> None:
    stem = "20_1_0_20170101000000000"
    files = [
        f"UTKFace/{stem}.jpg.chip.jpg",
        f"crop_part1/{stem}.jpg.chip.jpg",
        f"utkface_aligned_cropped/UTKFace/{stem}.jpg.chip.jpg",
        f"part1/{stem}.jpg",
        f"UTKface_inthewild/part1/{stem}.JPG",
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    first, *others = utkface.read(tmp_path, "images")
    assert first == LabelledImage(files[0], 20.0, 20.0, Gender.FEMALE)
    assert others == [Removed(file, Reason.REPEATED_IMAGE) for file in files[1:]]


def test_the_same_labels_and_time_of_another_image_count_as_another(tmp_path: Path) -> None:
    for name in ("20_1_0_20170101000000000_a.jpg", "20_1_0_20170101000000000_b.jpg"):
        (tmp_path / name).touch()
    assert all(isinstance(row, LabelledImage) for row in utkface.read(tmp_path, "images"))


def test_images_in_the_folder_of_the_archive_are_found(tmp_path: Path) -> None:
    (tmp_path / "UTKFace").mkdir()
    (tmp_path / "UTKFace" / "20_1_0_20170101000000000.jpg.chip.jpg").touch()
    (row,) = utkface.read(tmp_path, "images")
    assert row.file == "UTKFace/20_1_0_20170101000000000.jpg.chip.jpg"


def test_a_table_beside_the_images_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "20_1_0_20170101000000000.jpg.chip.jpg").touch()
    tables.label_file(tmp_path).write_text("file,age,gender\n")
    assert format_of(tmp_path) is tables.FORMAT
