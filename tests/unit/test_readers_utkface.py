from pathlib import Path

from agegender.labels import Gender
from trainer.labels import labels_csv, utkface
from trainer.labels.kinds import kind_of
from trainer.labels.labelled import LabelledImage, Reason, Removed


def test_labels_stand_in_the_file_names(tmp_path: Path) -> None:
    names = [
        "1_0_0_20161219140530307.jpg.chip.jpg",
        "100_1_2_20170112213500903.jpg",
        "116_1_2_20170112213500903.jpg.chip.jpg",
        "39_1_20170116174525125.jpg.chip.jpg",
        "61_3_20170109150557335.jpg.chip.jpg",
        "notes.txt",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert kind_of(tmp_path) is utkface.KIND
    assert list(utkface.read(tmp_path, "images")) == [
        LabelledImage(names[1], 100.0, 100.0, Gender.FEMALE),
        Removed(names[2], Reason.AGE_OUT_OF_RANGE),
        LabelledImage(names[0], 1.0, 1.0, Gender.MALE),
        LabelledImage(names[3], 39.0, 39.0, Gender.FEMALE),
        Removed(names[4], Reason.NO_GENDER),
    ]


def test_images_in_the_folder_of_the_archive_are_found(tmp_path: Path) -> None:
    (tmp_path / "UTKFace").mkdir()
    (tmp_path / "UTKFace" / "20_1_0_20170101000000000.jpg.chip.jpg").touch()
    (row,) = utkface.read(tmp_path, "images")
    assert row.file == "UTKFace/20_1_0_20170101000000000.jpg.chip.jpg"


def test_a_table_beside_the_images_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "20_1_0_20170101000000000.jpg.chip.jpg").touch()
    labels_csv.label_file(tmp_path).write_text("file,age,gender\n")
    assert kind_of(tmp_path) is labels_csv.KIND
