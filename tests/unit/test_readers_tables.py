"""labels.csv and FairFace: tables that people make, edit in spreadsheets, and may mean harm with."""

import math
from pathlib import Path

import pytest
from agegender.errors import Problem
from agegender.labels import Gender
from trainer.labels import fairface, labels_csv
from trainer.labels.kinds import dataset_folder, kind_of, require_kind
from trainer.labels.labelled import LabelledImage, LabelRow, Reason, Removed, checked_rows, is_safe_name


def read_csv(folder: Path, content: str | bytes) -> list[LabelRow]:
    labels_csv.label_file(folder).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(checked_rows(labels_csv.read(folder, "images")))


def test_all_columns_are_read(tmp_path: Path) -> None:
    rows = read_csv(tmp_path, "file,age,gender,subject,fold\na/b.jpg,34,f,ann,2\nc.png, 25-32 ,Male,,0\n")
    assert rows == [
        LabelledImage("a/b.jpg", 34.0, 34.0, Gender.FEMALE, "ann", 2),
        LabelledImage("c.png", 25.0, 32.0, Gender.MALE, "", 0),
    ]


def test_columns_may_stand_in_any_order_with_a_byte_order_mark(tmp_path: Path) -> None:
    (row,) = read_csv(tmp_path, b"\xef\xbb\xbfGender;File\n".replace(b";", b",") + b"m,x.jpg\n")
    assert isinstance(row, LabelledImage)
    assert (row.file, row.gender) == ("x.jpg", Gender.MALE)
    assert math.isnan(row.age_low)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x.jpg,=1+1,m,,", Reason.NO_AGE),
        ("x.jpg,-5,m,,", Reason.NO_AGE),
        ("x.jpg,nan,m,,", Reason.NO_AGE),
        ("x.jpg,101,m,,", Reason.AGE_OUT_OF_RANGE),
        ("x.jpg,32-25,m,,", Reason.AGE_OUT_OF_RANGE),
        ("x.jpg,,,,", Reason.NO_AGE),
        ("x.jpg,34,=HYPERLINK(),,", Reason.NO_GENDER),
        ("x.jpg,34,m,,-1", Reason.BAD_FOLD),
        ("x.jpg,34,m,,1e9", Reason.BAD_FOLD),
        ("x.jpg,34,m," + "s" * 201 + ",", Reason.BAD_ROW),
        ("../x.jpg,34,m,,", Reason.BAD_FILE_NAME),
        ("/etc/passwd,34,m,,", Reason.BAD_FILE_NAME),
        ("a/../../x.jpg,34,m,,", Reason.BAD_FILE_NAME),
        ("..\\x.jpg,34,m,,", Reason.BAD_FILE_NAME),
        ("a//x.jpg,34,m,,", Reason.BAD_FILE_NAME),
        (",34,m,,", Reason.BAD_FILE_NAME),
        ("x\x1b.jpg,34,m,,", Reason.BAD_FILE_NAME),
        ("x" * 2000 + ",34,m,,", Reason.BAD_FILE_NAME),
    ],
)
def test_a_bad_row_is_removed_with_its_reason_and_the_next_one_read(
    tmp_path: Path, line: str, reason: Reason
) -> None:
    bad, good = read_csv(tmp_path, f"file,age,gender,subject,fold\n{line}\ngood.jpg,5,f,,\n")
    assert isinstance(bad, Removed)
    assert bad.reason is reason
    assert isinstance(good, LabelledImage)


def test_of_repeated_rows_the_first_is_kept(tmp_path: Path) -> None:
    first, second = read_csv(tmp_path, "file,age,gender\nx.jpg,5,f\nx.jpg,50,m\n")
    assert isinstance(first, LabelledImage)
    assert second == Removed("x.jpg", Reason.REPEATED_ROW)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must name the columns"),
        (b"name,age\nx,1\n", "file is missing"),
        (b"file,age\n" + b"x" * 10_000_000 + b",3\n", "line 2 has more than"),
        (b"file,age\nx.jpg," + b"9" * 10_000_000 + b"\n", "line 2 has more than"),
        (b'file,age\n"x.jpg,3\n' + b"y.jpg,4\n" * 50_000, "not a CSV table"),
        ("file,age\nä.jpg,3\n".encode("latin-1"), "save it as UTF-8"),
        ("file,age\nx.jpg,3\n".encode("utf-16"), "UTF-8"),
        (b"file,age\nx\0.jpg,3\n", "NUL"),
    ],
)
def test_a_table_that_cannot_be_read_is_a_problem_that_says_why(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(Problem, match=message) as caught:
        read_csv(tmp_path, content)
    assert caught.value.slug == "bad-labels"
    assert str(tmp_path.parent) not in caught.value.detail


def test_short_and_long_rows_are_padded_and_cut(tmp_path: Path) -> None:
    short, long = read_csv(tmp_path, "file,age,gender\nx.jpg,5\ny.jpg,5,f,more,and more\n")
    assert isinstance(short, LabelledImage)
    assert short.gender is Gender.UNKNOWN
    assert isinstance(long, LabelledImage)


def test_fairface_ranges_and_genders(tmp_path: Path) -> None:
    (tmp_path / "fairface_label_train.csv").write_text(
        "file,age,gender,race,service_test\n"
        "train/1.jpg,50-59,Male,East Asian,True\n"
        "train/2.jpg,more than 70,Female,Indian,False\n"
        "train/3.jpg,3-Sep,Female,Black,False\n"
        "train/4.jpg,unknown,Female,Black,False\n"
    )
    (tmp_path / "fairface_label_val.csv").write_text(
        "file,age,gender,race,service_test\nval/1.jpg,3-9,,White,True\n"
    )
    assert kind_of(tmp_path) is fairface.KIND
    assert list(fairface.read(tmp_path, "images")) == [
        LabelledImage("train/1.jpg", 50.0, 59.0, Gender.MALE),
        LabelledImage("train/2.jpg", 70.0, 100.0, Gender.FEMALE),
        LabelledImage("train/3.jpg", 3.0, 9.0, Gender.FEMALE),
        Removed("train/4.jpg", Reason.NO_AGE),
        Removed("val/1.jpg", Reason.NO_GENDER),
    ]


def test_a_folder_of_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        require_kind(tmp_path)
    assert caught.value.status == 422
    for name in ("fold_0_data.txt", "imdb.mat", "fairface_label_train.csv", "labels.csv", "[age]_[gender]"):
        assert name in caught.value.detail


@pytest.mark.parametrize("name", ["..", ".", "", "../other", "a/b", "/etc", "a\0b", ".hidden", "x" * 101])
def test_a_data_set_name_never_leaves_the_data_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(Problem) as caught:
        dataset_folder(tmp_path / "data", name)
    assert caught.value.status == 404


def test_names_with_unusual_but_harmless_characters_are_kept() -> None:
    assert is_safe_name("30601258@N03/landmark_aligned_face.1.a b (1) é.jpg")
    assert is_safe_name("=1+1.jpg")
