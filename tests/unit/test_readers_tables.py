"""labels.csv and FairFace: tables that people make, edit in spreadsheets, and may mean harm with."""

import math
from pathlib import Path

import pytest
from agegender.errors import Problem
from agegender.labels import Gender
from trainer.datasets.catalog import dataset_folder
from trainer.datasets.formats import format_of, names, published, require_format, tables
from trainer.datasets.labels import LabelledImage, LabelRow, Reason, Removed, checked_rows, is_safe_name


def read_csv(folder: Path, content: str | bytes) -> list[LabelRow]:
    tables.label_file(folder).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(checked_rows(tables.read(folder, "images")))


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
        ("x.jpg,nan,unknown,,", Reason.NO_AGE),
        ("x.jpg,34,0,,", Reason.GENDER_NOT_MAPPED),
        ("x.jpg,34,1.0,,", Reason.GENDER_NOT_MAPPED),
        ("x.jpg,34,m,,0.5", Reason.BAD_FOLD),
        ("x.jpg,34,5,m,s,1", Reason.BAD_ROW),
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
        ("C:\\faces\\x.jpg,34,m,,", Reason.BAD_FILE_NAME),
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
        (b'file,age\n"x.jpg,3\n' + b"y.jpg,4\n" * 50_000, "row that begins in line 2 cannot be read"),
        (b'file,age\nw.jpg,3\n"x.jpg,3\ny.jpg,4\n', "row that begins in line 3 cannot be read"),
        (b'file,age,note\nx.jpg,3,"a\nb"\ny.jpg,4,"c\nz.jpg,4,"e"f\n', "begins in line 4 .*quoted whole"),
        (b'sep=;\nfile;age\nx.jpg;3\n"y.jpg;4\nz.jpg;5\n', "begins in line 4 "),
        ("file,age\nä.jpg,3\n".encode("latin-1"), "save it as UTF-8"),
        ("file,age\nx.jpg,3\n".encode("utf-16"), "UTF-8"),
        (b"file,age\nx\0.jpg,3\n", "NUL"),
    ],
)
def test_a_table_that_cannot_be_read_is_a_problem_that_states_why(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(Problem, match=message) as caught:
        read_csv(tmp_path, content)
    assert caught.value.slug == "bad-labels"
    assert str(tmp_path.parent) not in caught.value.detail


def test_quotes_line_breaks_and_delimiters_in_quoted_cells_are_read(tmp_path: Path) -> None:
    content = 'file,age,note\n"x, 1.jpg",5,"one\n""two"""\ny.jpg,6,5\'10" tall\n"z.jpg" ,7,"Weird" Al\n'
    assert [row.file for row in read_csv(tmp_path, content)] == ["x, 1.jpg", "y.jpg", "z.jpg"]


def test_a_short_row_lacks_its_last_labels_and_surplus_cells_must_be_empty(tmp_path: Path) -> None:
    short, empty, long = read_csv(tmp_path, "file,age,gender\nx.jpg,5\ny.jpg,5,f,,\nDoe, J.jpg,5,f,more\n")
    assert isinstance(short, LabelledImage)
    assert short.gender is Gender.UNKNOWN
    assert isinstance(empty, LabelledImage)
    assert long == Removed("Doe", Reason.BAD_ROW, cell="fmore")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("first", ["", "sep={}\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_in_the_first_line(
    tmp_path: Path, delimiter: str, first: str, mark: str
) -> None:
    text = first.format(delimiter) + "file,age,gender,fold\na b.jpg,25-32,f,3\n".replace(",", delimiter)
    assert read_csv(tmp_path, mark + text) == [LabelledImage("a b.jpg", 25, 32, Gender.FEMALE, "", 3)]


@pytest.mark.parametrize(
    ("age", "interval"),
    [
        ("34,5", (34.5, 34.5)),
        ("34.0", (34, 34)),
        ("25–32", (25, 32)),
        ("(25, 32)", (25, 32)),
        ("70+", (70, 100)),
        ("more than 70", (70, 100)),
    ],
)
def test_ages_are_read_as_people_write_them(tmp_path: Path, age: str, interval: tuple[float, float]) -> None:
    (row,) = read_csv(tmp_path, f"file;age\nx.jpg;{age}\n")
    assert isinstance(row, LabelledImage)
    assert (row.age_low, row.age_high) == interval


def test_a_column_of_numbers_with_gaps_is_read_as_pandas_writes_it(tmp_path: Path) -> None:
    first, second = read_csv(tmp_path, "file,age,gender,fold\nx.jpg,nan,m,0.0\ny.jpg,3,None,4.0\n")
    assert isinstance(first, LabelledImage) and isinstance(second, LabelledImage)
    assert (first.fold, second.fold, second.gender) == (0, 4, Gender.UNKNOWN)
    assert math.isnan(first.age_low)


@pytest.mark.parametrize(
    ("given", "file"),
    [
        (r"a\b\x.jpg", "a/b/x.jpg"),
        (r".\a\x.jpg", "a/x.jpg"),
        ("./x.jpg", "x.jpg"),
        ("a//./x.jpg", "a/x.jpg"),
        ("a/../x.jpg", "x.jpg"),
        ("{folder}/a/x.jpg", "a/x.jpg"),
        ("{link}/a/x.jpg", "a/x.jpg"),
    ],
)
def test_file_names_are_taken_in_any_form_that_stays_in_the_folder(
    tmp_path: Path, given: str, file: str
) -> None:
    folder, link = tmp_path / "faces", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    name = given.format(folder=folder, link=link)
    tables.label_file(folder).write_text(f"file,age,gender\n{name},3,f\n{file},3,f\n")
    first, second = checked_rows(tables.read(link, "images"), link)
    assert isinstance(first, LabelledImage)
    assert first.file == file
    assert second == Removed(file, Reason.REPEATED_ROW)


def test_an_absolute_name_of_another_folder_is_refused(tmp_path: Path) -> None:
    tables.label_file(tmp_path).write_text(f"file,age\n{tmp_path}-2/x.jpg,3\n{tmp_path}/../x.jpg,3\n")
    rows = checked_rows(tables.read(tmp_path, "images"), tmp_path)
    assert [row.reason for row in rows if isinstance(row, Removed)] == [Reason.BAD_FILE_NAME] * 2


def test_numbers_for_genders_are_read_with_a_map_only(tmp_path: Path) -> None:
    text = "file,age,gender\na.jpg,3,0\nb.jpg,3,1.0\nc.jpg,3,w\nd.jpg,3,m\n"
    assert [type(row) for row in read_csv(tmp_path, text)] == [Removed, Removed, Removed, LabelledImage]
    kind = tables.FORMAT.with_gender_map({"0": "male", "1": "female", "W": "female"})
    genders = [row.gender for row in kind.read(tmp_path, "images") if isinstance(row, LabelledImage)]
    assert genders == [Gender.MALE, Gender.FEMALE, Gender.FEMALE, Gender.MALE]


def test_a_map_of_genders_is_refused_where_the_labels_define_them() -> None:
    with pytest.raises(Problem, match="utkface") as caught:
        names.UTKFACE.with_gender_map({"0": "male"})
    assert (caught.value.slug, caught.value.extra["errors"][0]["field"]) == ("invalid-request", "genders")
    assert names.UTKFACE.with_gender_map({}) is names.UTKFACE


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("name,age,sex", "file is missing.*names 'name', 'age', 'sex'.*'name': did you mean 'file'?"),
        ("fiel,age", "'fiel': did you mean 'file'?"),
        ("x,y", r"It names 'x', 'y'\. Add what is missing"),
        ("file,age,Age", "names 'age' twice"),
    ],
)
def test_a_missing_column_is_named_with_those_found_and_the_nearest(
    tmp_path: Path, columns: str, message: str
) -> None:
    with pytest.raises(Problem, match=message):
        read_csv(tmp_path, f"{columns}\nx.jpg,3,f\n")


@pytest.mark.parametrize("age", ["3-Sep", "9-Mar", "03-Sep", "Sep-03", "3-9"])
def test_fairface_ages_that_a_spreadsheet_changed_are_read(tmp_path: Path, age: str) -> None:
    (tmp_path / "fairface_label_val.csv").write_text(f"file;age;gender\nval/1.jpg;{age};Male\n")
    assert list(published.read_fairface(tmp_path, "images")) == [
        LabelledImage("val/1.jpg", 3.0, 9.0, Gender.MALE)
    ]


def test_fairface_images_are_found_in_the_folders_of_their_archives(tmp_path: Path) -> None:
    (tmp_path / "fairface_label_val.csv").write_text("file,age,gender\n")
    assert published.FAIRFACE.image_sets(tmp_path) == ["images"]
    for margin in ("025", "125"):
        (tmp_path / f"fairface-img-margin{margin}-trainval" / "val").mkdir(parents=True)
    first, second = published.FAIRFACE.image_sets(tmp_path)
    assert published.FAIRFACE.image_dir(tmp_path, first) == tmp_path / "fairface-img-margin025-trainval"
    assert second == "fairface-img-margin125-trainval"
    (tmp_path / "val").mkdir()
    assert published.FAIRFACE.image_sets(tmp_path) == ["images", first, second]
    assert published.FAIRFACE.image_dir(tmp_path, "images") == tmp_path


def test_a_data_set_one_folder_too_deep_is_named(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    tables.label_file(tmp_path / "inner").write_text("file\n")
    with pytest.raises(Problem, match="'inner'") as caught:
        require_format(tmp_path)
    assert caught.value.slug == "unknown-dataset"


def test_fairface_ranges_and_genders(tmp_path: Path) -> None:
    (tmp_path / "fairface_label_train.csv").write_text(
        "file,age,gender,race,service_test\n"
        "train/1.jpg,50-59,Male,East Asian,True\n"
        "train/2.jpg,more than 70,Female,Indian,False\n"
        "train/3.jpg,3-Sep,Female,Black,TRUE\n"
        "train/4.jpg,young,Female,Black,FALSE\n"
    )
    (tmp_path / "fairface_label_val.csv").write_text(
        "file,age,gender,race,service_test\nval/1.jpg,3-9,,White,True\n"
    )
    assert format_of(tmp_path) is published.FAIRFACE
    assert list(published.read_fairface(tmp_path, "images")) == [
        LabelledImage("train/1.jpg", 50.0, 59.0, Gender.MALE),
        LabelledImage("train/2.jpg", 70.0, 100.0, Gender.FEMALE),
        LabelledImage("train/3.jpg", 3.0, 9.0, Gender.FEMALE),
        Removed("train/4.jpg", Reason.NO_AGE, cell="young"),
        LabelledImage("val/1.jpg", 3.0, 9.0, Gender.UNKNOWN),
    ]


APPA_AVERAGES = "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age\n"
APPA_VOTES = "file_name,real_age,apparent_age,worker_age,worker_gender\n"


def test_appa_real_has_real_and_apparent_ages_and_genders_in_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "gt_avg_train.csv").write_text(
        f"{APPA_AVERAGES}000000.jpg,36,5.05,1.55,4\n000001.jpg,40,33.5,2,31\n"
    )
    (tmp_path / "gt_avg_valid.csv").write_text(f"{APPA_AVERAGES}004113.jpg,37,20.1,3,18\n")
    (tmp_path / "gt_train.csv").write_text(f"{APPA_VOTES}000000.jpg,4,5,54,female\n")
    (tmp_path / "allcategories_train.csv").write_text("file,gender,race\n000001.jpg,male,caucasian\n")
    assert format_of(tmp_path) is published.APPA_REAL
    first, *_ = published.APPA_REAL.image_sets(tmp_path)
    assert first == "faces-real-age"
    assert list(published.read_appa_real(tmp_path, first)) == [
        LabelledImage("train/000000.jpg_face.jpg", 4.0, 4.0, Gender.UNKNOWN),
        LabelledImage("train/000001.jpg_face.jpg", 31.0, 31.0, Gender.MALE),
        LabelledImage("valid/004113.jpg_face.jpg", 18.0, 18.0, Gender.UNKNOWN),
    ]
    apparent = next(published.read_appa_real(tmp_path, "images-apparent-age"))
    assert apparent == LabelledImage("train/000000.jpg", 5.05, 5.05, Gender.UNKNOWN)


def test_appa_real_votes_are_averaged_and_the_voter_is_not_the_face(tmp_path: Path) -> None:
    votes = "007612.jpg,47,44,55,female\n007612.jpg,47,40,22,male\n007612.jpg,47,41,33,female\n"
    (tmp_path / "gt_test.csv").write_text(APPA_VOTES + votes)
    (row,) = published.read_appa_real(tmp_path, "faces-apparent-age")
    assert row == LabelledImage("test/007612.jpg_face.jpg", 41.67, 41.67, Gender.UNKNOWN)
    (tmp_path / "gt_test.csv").write_text(f"{APPA_VOTES}1.jpg,47,old,55,female\n")
    with pytest.raises(Problem, match="apparent_age is 'old'"):
        list(published.read_appa_real(tmp_path, "faces-apparent-age"))


def test_megaage_asian_has_parallel_lists_without_genders(tmp_path: Path) -> None:
    lists = {"train_name": "1.jpg\n2.jpg\n\n", "train_age": "22\n69\n", "test_name": "1.jpg", "test_age": "3"}
    (tmp_path / "list").mkdir()
    for name, content in lists.items():
        (tmp_path / f"list/{name}.txt").write_text(content)
    assert format_of(tmp_path) is published.MEGAAGE_ASIAN
    assert list(published.read_megaage(tmp_path, "images")) == [
        LabelledImage("train/1.jpg", 22.0, 22.0, Gender.UNKNOWN),
        LabelledImage("train/2.jpg", 69.0, 69.0, Gender.UNKNOWN),
        LabelledImage("test/1.jpg", 3.0, 3.0, Gender.UNKNOWN),
    ]
    (tmp_path / "list/test_age.txt").write_text("3\n4\n")
    with pytest.raises(Problem, match=r"2 ages for 1 names in test_name\.txt; expected as many"):
        list(published.read_megaage(tmp_path, "images"))


def test_a_folder_of_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        require_format(tmp_path)
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
