"""Data sets whose labels are in the names of files and folders."""

import math
import os
from pathlib import Path

import pytest
from agegender.errors import Problem
from agegender.labels import Gender
from trainer.datasets.formats import format_of, names, require_format, tables
from trainer.datasets.importing import propose
from trainer.datasets.labels import DatasetFormat, LabelledImage, LabelRow, Reason, Removed


def test_labels_stand_in_the_file_names(tmp_path: Path) -> None:
    files = [
        "1_0_0_20161219140530307.jpg.chip.jpg",
        "100_1_2_20170112213500903.jpg",
        "116_1_2_20170112213500903.jpg.chip.jpg",
        "notes.txt",
    ]
    for name in files:
        (tmp_path / name).touch()
    assert format_of(tmp_path) is names.UTKFACE
    assert list(names.read_utkface(tmp_path, "images")) == [
        LabelledImage(files[1], 100.0, 100.0, Gender.FEMALE),
        Removed(files[2], Reason.AGE_OUT_OF_RANGE),
        LabelledImage(files[0], 1.0, 1.0, Gender.MALE),
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
    assert list(names.read_utkface(tmp_path, "images")) == [LabelledImage(name, age, age, gender)]
    assert format_of(tmp_path) is names.UTKFACE


def test_what_a_name_lacks_is_removed_with_the_true_reason(tmp_path: Path) -> None:
    for name in ("20_1_0_20170101000000000.jpg", "30_3_0_20170101000000001.jpg", "DSC_0001.JPG", ".x.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "21_1_0_20170101000000000.jpg").mkdir()
    assert [row for row in names.read_utkface(tmp_path, "images") if isinstance(row, Removed)] == [
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
    first, *others = names.read_utkface(tmp_path, "images")
    assert first == LabelledImage(files[0], 20.0, 20.0, Gender.FEMALE)
    assert others == [Removed(file, Reason.REPEATED_IMAGE) for file in files[1:]]


def test_the_same_labels_and_time_of_another_image_count_as_another(tmp_path: Path) -> None:
    for name in ("20_1_0_20170101000000000_a.jpg", "20_1_0_20170101000000000_b.jpg"):
        (tmp_path / name).touch()
    assert all(isinstance(row, LabelledImage) for row in names.read_utkface(tmp_path, "images"))


@pytest.mark.parametrize(
    "name",
    [
        "31_1_2023_ann.jpg",
        "31_1_2023.jpg",
        "12_1_20230131.jpg",
        "31_1_2023_5.jpg",
        "2023_1_31.jpg",
        "0012_0_01.jpg",
        "012_0_1_20170101000000000.jpg",
        "25_1_0_ann.jpg",
        "5_1_2_3_4.jpg",
    ],
)
def test_dates_and_numbers_of_persons_are_no_labels(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert format_of(tmp_path) is None
    assert list(names.read_utkface(tmp_path, "images")) == [Removed(name, Reason.NO_AGE)]


def test_one_name_does_not_make_a_folder_utkface(tmp_path: Path) -> None:
    files = ("25/female/a.jpg", "30/male/b.jpg", "40/male/c.jpg", "12_1_5.jpg")
    rows = rows_of(tmp_path, names.CLASS_FOLDERS, *files)
    assert [summary(rows[file])[0] for file in files[:3]] == [25, 30, 40]
    assert rows["12_1_5.jpg"] == Removed("12_1_5.jpg", Reason.NO_AGE)


def test_names_above_the_highest_age_which_come_first_do_not_hide_utkface(tmp_path: Path) -> None:
    ages = [*(100 + number % 17 for number in range(90)), *(number % 90 + 1 for number in range(900))]
    images = [f"UTKFace/{age}_0_0_{20170101000000000 + index}.jpg" for index, age in enumerate(ages)]
    rows = rows_of(tmp_path, names.UTKFACE, *images, "UTKFace/100_1.jpg", "Extra/a.jpg", "Extra/b.jpg")
    assert len(rows) == len(images) + 3
    assert [file for file, row in rows.items() if getattr(row, "reason", "") == Reason.NO_AGE] == [
        "UTKFace/100_1.jpg",
        "Extra/a.jpg",
        "Extra/b.jpg",
    ]


def test_utkface_names_with_a_time_are_read_in_any_folder(tmp_path: Path) -> None:
    files = ("part1/30_0_0_7.jpg", "test/20_1_0_20170101000000001.jpg", "train/21_1_0_20170101000000002.jpg")
    rows = rows_of(tmp_path, names.UTKFACE, *files)
    assert [summary(rows[file])[0] for file in files] == [30, 20, 21]
    rows = rows_of(tmp_path, names.UTKFACE, "persons/1_1_1.jpg")
    assert rows["persons/1_1_1.jpg"] == Removed("persons/1_1_1.jpg", Reason.NO_AGE)


def test_images_in_the_folder_of_the_archive_are_found(tmp_path: Path) -> None:
    (tmp_path / "UTKFace").mkdir()
    (tmp_path / "UTKFace" / "20_1_0_20170101000000000.jpg.chip.jpg").touch()
    (row,) = names.read_utkface(tmp_path, "images")
    assert row.file == "UTKFace/20_1_0_20170101000000000.jpg.chip.jpg"


def test_a_table_beside_the_images_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "20_1_0_20170101000000000.jpg.chip.jpg").touch()
    tables.label_file(tmp_path).write_text("file,age,gender\n")
    assert format_of(tmp_path) is tables.FORMAT


def rows_of(folder: Path, expected: DatasetFormat, *files: str) -> dict[str, LabelRow]:
    """Make empty files, and return what the format of their folder reads each as."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    assert format_of(folder) is expected
    return {row.file: row for row in expected.read(folder, "images")}


def summary(row: LabelRow) -> tuple[float, Gender, str]:
    assert isinstance(row, LabelledImage), row
    assert row.age_low == row.age_high
    return row.age_low, row.gender, row.subject


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0_MariaCallas_35_f.jpg", (35, Gender.FEMALE, "MariaCallas")),
        ("1000_StephenHawking_1_m.jpg", (1, Gender.MALE, "StephenHawking")),
        ("12_JeanReno _48_m.jpg", (48, Gender.MALE, "JeanReno")),
        ("13_JeanReno_48 _m.jpg", (48, Gender.MALE, "JeanReno")),
        ("14_Bj\u0446rk_30_f.JPG", (30, Gender.FEMALE, "Bj\u0446rk")),
        ("15_Sammy_Davis_Jr._60_m.jpg", (60, Gender.MALE, "Sammy_Davis_Jr.")),
    ],
)
def test_agedb_names_with_blanks_and_foreign_letters_are_read(
    tmp_path: Path, name: str, expected: tuple[float, Gender, str]
) -> None:
    rows = rows_of(tmp_path, names.AGEDB, f"AgeDB/{name}")
    assert summary(rows[f"AgeDB/{name}"]) == expected


def test_of_agedb_only_names_without_labels_are_removed(tmp_path: Path) -> None:
    plain = [f"{number}_MariaCallas_{20 + number}_f.jpg" for number in range(9)]
    rows = rows_of(
        tmp_path, names.AGEDB, *plain, "9_MariaCallas_f.jpg", "10_JeanneCalment_122_f.jpg", "readme.txt"
    )
    assert [row for row in rows.values() if isinstance(row, Removed)] == [
        Removed("10_JeanneCalment_122_f.jpg", Reason.AGE_OUT_OF_RANGE),
        Removed("9_MariaCallas_f.jpg", Reason.NO_AGE),
    ]


def test_morph_names_have_person_gender_and_age(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, names.MORPH, "Album2/009055_1M54.JPG", "Album2/335788_03F20.jpg")
    assert summary(rows["Album2/009055_1M54.JPG"]) == (54, Gender.MALE, "009055")
    assert summary(rows["Album2/335788_03F20.jpg"]) == (20, Gender.FEMALE, "335788")


def test_cacd_names_have_age_and_person_but_no_gender(tmp_path: Path) -> None:
    files = ("53_Robin_Williams_0001.jpg", "23_Katie_Findlay_0011.jpg", "14_Zo\u00eb_Kravitz-O'Hara_0002.jpg")
    rows = rows_of(tmp_path, names.CACD, *files)
    assert summary(rows[files[0]]) == (53, Gender.UNKNOWN, "Robin_Williams")
    assert summary(rows[files[2]]) == (14, Gender.UNKNOWN, "Zo\u00eb_Kravitz-O'Hara")
    proposal = propose(tmp_path)
    assert (proposal.format, proposal.usable, proposal.with_gender) == ("cacd", 3, 0)
    assert "No usable row has a gender." in proposal.problems


def test_fg_net_and_all_age_faces_differ_in_their_digits(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "fg", names.FG_NET, "001A02.JPG", "010A07a.JPG", "010a07b.jpeg")
    assert summary(rows["010A07a.JPG"]) == (7, Gender.UNKNOWN, "010")
    rows = rows_of(tmp_path / "all", names.ALL_AGE_FACES, "faces/07380A80.jpg", "faces/07381A02.jpg")
    assert [summary(row)[:2] for row in rows.values()] == [(80, Gender.FEMALE), (2, Gender.MALE)]


def test_afad_folders_are_ages_with_codes_for_the_gender(tmp_path: Path) -> None:
    files = ("AFAD-Full/15/111/109192-0.jpg", "AFAD-Full/15/112/671487-0.jpg", "AFAD-Full/75/111/9-0.jpg")
    rows = rows_of(tmp_path, names.CLASS_FOLDERS, *(file.removeprefix("AFAD-Full/") for file in files))
    assert summary(rows["15/111/109192-0.jpg"]) == (15, Gender.MALE, "")
    assert summary(rows["15/112/671487-0.jpg"]) == (15, Gender.FEMALE, "")
    assert summary(rows["75/111/9-0.jpg"]) == (75, Gender.MALE, "")


@pytest.mark.parametrize(
    ("file", "age", "gender"),
    [
        ("25/f/a.jpg", (25, 25), Gender.FEMALE),
        ("train/Men/70+/a.jpg", (70, 100), Gender.MALE),
        ("women/25-32/x/a.jpg", (25, 32), Gender.FEMALE),
        ("25/women/12/a.jpg", (25, 25), Gender.FEMALE),
        ("(25, 32)/a.png", (25, 32), Gender.UNKNOWN),
        ("more than 70/a.png", (70, 100), Gender.UNKNOWN),
        ("female/a.png", None, Gender.FEMALE),
        ("data/test/MALE/a.png", None, Gender.MALE),
    ],
)
def test_class_folders_are_labels(
    tmp_path: Path, file: str, age: tuple[float, float] | None, gender: Gender
) -> None:
    (row,) = rows_of(tmp_path, names.CLASS_FOLDERS, file).values()
    assert isinstance(row, LabelledImage)
    assert row.gender is gender
    assert math.isnan(row.age_low) if age is None else (row.age_low, row.age_high) == age


def test_folders_0_and_1_are_genders_that_need_a_map(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, names.CLASS_FOLDERS, "train/0/a.jpg", "train/1/b.jpg")
    assert {row.reason for row in rows.values() if isinstance(row, Removed)} == {Reason.GENDER_NOT_MAPPED}
    mapped = names.CLASS_FOLDERS.with_gender_map({"0": "female", "1": "male"})
    genders = [row.gender for row in mapped.read(tmp_path, "images") if isinstance(row, LabelledImage)]
    assert genders == [Gender.FEMALE, Gender.MALE]


def mapped(folder: Path) -> dict[str, LabelRow]:
    rows = names.CLASS_FOLDERS.with_gender_map({"0": "male", "1": "female"}).read(folder, "images")
    return {row.file: row for row in rows}


def test_coded_genders_stand_below_ages_that_include_0_and_1(tmp_path: Path) -> None:
    files = ("0/1/z.jpg", "1/0/y.jpg", "25/0/x.jpg", "30/1/w.jpg")
    rows = rows_of(tmp_path, names.CLASS_FOLDERS, *files)
    assert set(rows.values()) == {Removed(file, Reason.GENDER_NOT_MAPPED) for file in files}
    assert [summary(mapped(tmp_path)[file])[:2] for file in files] == [
        (0, Gender.FEMALE),
        (1, Gender.MALE),
        (25, Gender.MALE),
        (30, Gender.FEMALE),
    ]


@pytest.mark.parametrize("file", ["25/0/x.jpg", "0/25/x.jpg", "train/0/25/x.jpg"])
def test_one_coded_gender_needs_a_map_too(tmp_path: Path, file: str) -> None:
    assert rows_of(tmp_path, names.CLASS_FOLDERS, file) == {file: Removed(file, Reason.GENDER_NOT_MAPPED)}
    assert summary(mapped(tmp_path)[file])[:2] == (25, Gender.MALE)


def test_a_code_beside_those_of_the_map_is_not_mapped(tmp_path: Path) -> None:
    rows_of(tmp_path, names.CLASS_FOLDERS, "25/0/x.jpg", "30/1/y.jpg", "30/2/z.jpg")
    assert [getattr(row, "gender", row) for row in mapped(tmp_path).values()] == [
        *(Gender.MALE, Gender.FEMALE),
        Removed("30/2/z.jpg", Reason.GENDER_NOT_MAPPED),
    ]


def test_two_levels_of_0_and_1_are_not_guessed(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, names.CLASS_FOLDERS, "0/1/z.jpg", "1/0/y.jpg")
    assert {row.reason for row in rows.values() if isinstance(row, Removed)} == {Reason.GENDER_NOT_MAPPED}
    assert mapped(tmp_path)["1/0/y.jpg"] == Removed("1/0/y.jpg", Reason.NO_GENDER)


def numbered(pattern: str, numbers: range) -> list[str]:
    return [pattern.format(number) for number in numbers]


@pytest.mark.parametrize(
    "files",
    [
        numbered("train/{}/x.jpg", range(18, 76)),
        numbered("test/{}/x.jpg", range(20, 51)),
        numbered("{}/x.jpg", range(1, 91)),
        [*numbered("{}/f/x.jpg", range(1, 31)), *numbered("{}/m/x.jpg", range(1, 29))],
        [*numbered("male/{}/x.jpg", range(1, 100)), *numbered("female/{}/x.jpg", range(101))],
        [*numbered("{}/111/x.jpg", range(1, 8)), *numbered("{}/112/x.jpg", range(1, 8))],
        [*numbered("{}/x.jpg", range(5)), "5-9/x.jpg", "10-19/x.jpg"],
        ["0/x.jpg", "10/x.jpg", "20/x.jpg", "30/x.jpg", "unknown/x.jpg"],
    ],
)
def test_numbers_are_ages_if_something_speaks_for_it(tmp_path: Path, files: list[str]) -> None:
    rows = rows_of(tmp_path, names.CLASS_FOLDERS, *files)
    for row in rows.values():
        years = next((int(name) for name in row.file.split("/") if name.isdigit()), None)
        if years is not None:
            assert isinstance(row, LabelledImage) and row.age_low == years


@pytest.mark.parametrize(
    "files",
    [
        ["male/001/x.jpg", "female/003/x.jpg"],
        [*numbered("male/{}/x.jpg", range(1, 4)), "female/4/x.jpg"],
        [*numbered("male/{}/x.jpg", range(1, 50)), *numbered("female/{}/x.jpg", range(50, 100))],
        [*numbered("{}/male/x.jpg", range(1, 50)), *numbered("{}/female/x.jpg", range(50, 100))],
        [*numbered("{}/male/x.jpg", range(9)), *numbered("{}/female/x.jpg", range(9))],
        ["male/1/x.jpg", "male/2/x.jpg", "female/412/x.jpg"],
        ["male/ann/x.jpg", "male/bob/x.jpg", "male/25/x.jpg"],
        ["male/12-jan/x.jpg", "female/13-jan/x.jpg"],
        ["male/25/12/x.jpg", "female/30/45/x.jpg"],
    ],
)
def test_genders_are_read_without_ages_if_numbers_may_be_persons(tmp_path: Path, files: list[str]) -> None:
    rows = rows_of(tmp_path, names.CLASS_FOLDERS, *files)
    for row in rows.values():
        assert isinstance(row, LabelledImage) and math.isnan(row.age_low)
        assert row.gender is (Gender.FEMALE if "female" in row.file else Gender.MALE)


def test_persons_with_a_range_of_ages_below_have_that_age(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, names.CLASS_FOLDERS, "12/25-32/x.jpg", "45/60+/x.jpg")
    ages = [(row.age_low, row.age_high) for row in rows.values() if isinstance(row, LabelledImage)]
    assert ages == [(25, 32), (60, 100)]


@pytest.mark.parametrize(
    "folders",
    [
        ["00", "01", "99"],
        ["001", "002", "110"],
        ["1", "2", "3", "412"],
        ["ann", "bob", "25"],
        ["n000001", "n000002"],
        ["1", "2", "3", "4", "5"],
        ["train/1", "train/2", "test/3"],
        [str(number) for number in range(9)],
        [str(number) for number in range(1, 61) if number % 7],
        ["1.1", "1.2", "2.1"],
        ["25/12", "30/45"],
    ],
)
def test_numbered_folders_and_persons_are_not_taken_for_ages(tmp_path: Path, folders: list[str]) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").touch()
    with pytest.raises(Problem, match=r"numbers .* labels\.csv"):
        require_format(tmp_path)


def test_the_order_in_which_folders_are_listed_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [f"{age}/{gender}/x.jpg" for age in (1, 7, 25, 60) for gender in "fm"]
    rows = rows_of(tmp_path, names.CLASS_FOLDERS, *files)
    listing = os.scandir

    class Reversed:
        def __init__(self, path: Path) -> None:
            with listing(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> "list[os.DirEntry[str]]":
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert rows_of(tmp_path, names.CLASS_FOLDERS) == rows


def test_folders_that_an_extraction_adds_change_nothing(tmp_path: Path) -> None:
    for space in ("human-2", "buffalo_s-5", "buffalo_l-3"):
        (tmp_path / space).mkdir()
        (tmp_path / space / "meta-data-images.json").touch()
    rows_of(tmp_path, names.CLASS_FOLDERS, "female/a.jpg", "male/b.jpg")
