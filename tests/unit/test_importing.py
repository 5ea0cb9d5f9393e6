"""Import of labels: tables as people have them, columns and values guessed, and labels.csv written."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from agegender.errors import Problem
from agegender.labels import Gender
from trainer.datasets.formats import format_of, names, require_format, tables
from trainer.datasets.formats.table_files import SOURCE
from trainer.datasets.importing import ORIGINAL, REMOVED, export_metadata, propose, write_labels
from trainer.datasets.labels import LabelledImage, Removed, checked_rows
from trainer.datasets.proposals import LabelChoice, LabelProposal, LabelQuery

from tests.support.label_folders import images, table, written


def columns(proposal: LabelProposal) -> tuple[str | None, str | None, str | None]:
    return proposal.file_column, proposal.age_column, proposal.gender_column


def extracted(folder: Path) -> list[LabelledImage]:
    read = require_format(folder).read(folder, "images")
    return [row for row in checked_rows(read, folder) if isinstance(row, LabelledImage)]


def test_a_table_with_other_column_names_is_read_with_its_image_folder(tmp_path: Path) -> None:
    images(tmp_path, "faces/a.jpg", "faces/b.png", "faces/spare.jpg")
    table(
        tmp_path,
        "\ufeffBild;Alter;Geschlecht;Ort\r\na.jpg;25,5;Woman;Ulm\r\nb;30-39;m;Bonn\r\nc.jpg;3;f;Köln\r\n",
        "Meine Tabelle.csv",
    )
    proposal = propose(tmp_path)
    assert columns(proposal) == ("bild", "alter", "geschlecht")
    assert (proposal.format, proposal.source, proposal.ready) == ("table", ["Meine Tabelle.csv"], False)
    assert proposal.columns[0].values == ["a.jpg", "b", "c.jpg"]
    assert proposal.genders == {"woman": "female", "m": "male", "f": "female"}
    assert [(row.file, row.age, row.gender, row.problem) for row in proposal.examples] == [
        ("faces/a.jpg", "25.5", "female", None),
        ("faces/b.png", "30-39", "male", None),
        ("c.jpg", "", "", "image-missing"),
    ]
    assert proposal.examples[0].cells["ort"] == "Ulm"
    assert (proposal.rows, proposal.usable, proposal.images_without_row) == (3, 2, 1)
    assert proposal.summary == "2 of 3 rows (1 image-missing, e.g. c.jpg)"
    assert not (tmp_path / "labels.csv").exists()


def test_labels_csv_is_written_and_is_what_an_extraction_reads(tmp_path: Path) -> None:
    images(tmp_path, "faces/a.jpg", "faces/b.jpg")
    table(
        tmp_path, 'img,age,sex,person_id\na.jpg,"(25, 32)",F,ann\nb.jpg,,M,\nc.jpg,3,F,\n', "annotations.csv"
    )
    result = write_labels(tmp_path)
    assert (result.written, result.removed_file, result.ready) == ("labels.csv", "labels.removed.csv", True)
    assert written(tmp_path) == [
        {"file": "faces/a.jpg", "age": "25-32", "gender": "female", "subject": "ann", "fold": ""},
        {"file": "faces/b.jpg", "age": "", "gender": "male", "subject": "", "fold": ""},
    ]
    assert (tmp_path / REMOVED).read_text() == "file,reason,cell\nc.jpg,image-missing,\n"
    assert format_of(tmp_path) is tables.FORMAT
    assert [row.file for row in extracted(tmp_path)] == ["faces/a.jpg", "faces/b.jpg"]


def test_numbers_as_genders_are_asked_for_and_taken_from_the_map_only(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    table(tmp_path, "file,age,gender\na.jpg,25,0\nb.jpg,30,1\n")
    proposal = propose(tmp_path)
    assert proposal.genders == {"0": None, "1": None}
    assert proposal.removed == {"gender-not-mapped": 2}
    assert any("--map 0=female,1=male" in problem for problem in proposal.problems)
    with pytest.raises(Problem, match="2 gender-not-mapped") as caught:
        write_labels(tmp_path)
    assert caught.value.slug == "no-images"
    assert (tmp_path / "labels.csv").read_text().startswith("file,age,gender\na.jpg,25,0")
    result = write_labels(tmp_path, LabelQuery(map="0=male, 1=f").choice)
    assert [row["gender"] for row in written(tmp_path)] == ["male", "female"]
    assert result.map == {"0": "male", "1": "female"}


def test_a_labels_csv_of_a_person_is_kept_and_read_again_with_another_choice(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    text = "file,age,age2,gender\na.jpg,25,26,0\nb.jpg,30,31,1\n"
    table(tmp_path, text)
    write_labels(tmp_path, LabelChoice(map={"0": "female", "1": "male"}))
    assert (tmp_path / ORIGINAL).read_text() == text
    again = LabelChoice(age_column="Age2", map={"0": "male", "1": "female"})
    assert propose(tmp_path, again).source == [ORIGINAL]
    write_labels(tmp_path, again)
    assert [(row["age"], row["gender"]) for row in written(tmp_path)] == [("26", "male"), ("31", "female")]
    assert (tmp_path / ORIGINAL).read_text() == text
    without = propose(tmp_path, LabelChoice(age_column="", map={"0": "male", "1": "female"}))
    assert (without.age_column, without.with_age, without.with_gender) == (None, 0, 2)


def test_a_chosen_column_that_does_not_exist_is_named_with_the_nearest(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    table(tmp_path, "file,years_old\na.jpg,25\n", "my faces.csv")
    with pytest.raises(Problem, match="'years_old': did you mean 'year_old'"):
        propose(tmp_path, LabelChoice(age_column="year_old"))


def test_a_folder_without_labels_is_described_with_its_columns_and_files(
    tmp_path: Path,
) -> None:
    images(tmp_path, "x/a.jpg", "b.jpg")
    table(tmp_path, "fiel,agee\nq,w\n", "faces.csv")
    (tmp_path / "book.xlsx").touch()
    with pytest.raises(Problem) as caught:
        require_format(tmp_path)
    for text in (
        "'faces.csv' with the columns 'fiel', 'agee'",
        "'fiel': did you mean 'file'?",
        "'agee': did you mean 'age'?",
        "'book.xlsx'",
        "save it as CSV",
        "1 images such as 'b.jpg'",
        "1 folders: 'x'",
    ):
        assert text in caught.value.detail
    with pytest.raises(Problem, match="file is missing"):
        propose(tmp_path)


def test_a_voter_is_not_taken_for_the_face(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    table(tmp_path, "file,worker_age,worker_gender,age\na.jpg,50,male,25\n", "ratings.csv")
    assert columns(propose(tmp_path)) == ("file", "age", None)


def test_paths_of_another_machine_are_found_by_name_unless_two_images_have_it(tmp_path: Path) -> None:
    images(tmp_path, "x/a.jpg", "x/twice.jpg", "y/twice.jpg")
    table(tmp_path, "path,age\nC:\\Users\\me\\a.jpg,25\n/home/me/twice.jpg,30\n../../etc/passwd,4\n")
    proposal = propose(tmp_path)
    assert [row.file for row in proposal.examples if row.problem is None] == ["x/a.jpg"]
    assert proposal.removed == {"bad-file-name": 2}


def test_a_record_of_an_import_that_lies_leads_nowhere_outside(tmp_path: Path) -> None:
    secret = table(tmp_path / "other", "file,age\na.jpg,1\n", "secret.csv") / "secret.csv"
    folder = table(images(tmp_path / "faces", "a.jpg"), "file,age\na.jpg,25\n")
    digest = sha256((folder / "labels.csv").read_bytes()).hexdigest()
    record = {"tables": [str(secret), "../other/secret.csv"], "sha256": digest}
    (folder / SOURCE).write_text(json.dumps(record))
    assert propose(folder).source == ["labels.csv"]


def test_a_table_outside_the_data_folder_is_not_shown(tmp_path: Path) -> None:
    table(tmp_path, "file,age,secret\na.jpg,1,word\n", "outside.csv")
    folder = images(tmp_path / "data" / "faces", "a.jpg")
    (folder / "people.csv").symlink_to(tmp_path / "outside.csv")
    with pytest.raises(Problem, match="leads out of the data folder") as caught:
        propose(folder)
    assert "secret" not in caught.value.detail
    with pytest.raises(Problem, match="leads out of the data folder") as caught:
        require_format(folder)
    assert "secret" not in caught.value.detail
    shared = table(tmp_path / "data", "file,age\na.jpg,1\n", "shared.csv")
    (folder / "people.csv").unlink()
    (folder / "people.csv").symlink_to(shared / "shared.csv")
    assert propose(folder).usable == 1


@pytest.mark.parametrize("text", ["0=3", "0", "=female", "0=female,1=x"])
def test_a_map_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="expected pairs such as 0=female,1=male"):
        _ = LabelQuery(map=text).choice


def test_a_pandas_index_column_and_dates_of_a_spreadsheet_are_read(tmp_path: Path) -> None:
    images(tmp_path, "0.jpg", "1.jpg", "2.jpg")
    table(tmp_path, ",image,age,sex\n0,0.jpg,03-Sep,Man\n1,1.jpg,Oct-19,Woman\n2,2.jpg,-1,u\n")
    assert extracted(tmp_path) == [
        LabelledImage("0.jpg", 3.0, 9.0, Gender.MALE),
        LabelledImage("1.jpg", 10.0, 19.0, Gender.FEMALE),
    ]
    assert propose(tmp_path).ready


def test_metadata_of_an_imagefolder_is_read_in_its_splits(tmp_path: Path) -> None:
    for split, line in (("train", '{"file_name": "a.jpg", "age": 25, "gender": "Female"}'),
                        ("test", '{"file_name": "sub/b.jpg", "age": [30, 39], "gender": null}')):  # fmt: skip
        table(tmp_path / split, line + "\n", "metadata.jsonl")
    images(tmp_path, "train/a.jpg", "test/sub/b.jpg", "test/extra.jpg")
    assert extracted(tmp_path) == [
        LabelledImage("train/a.jpg", 25.0, 25.0, Gender.FEMALE),
        LabelledImage("test/sub/b.jpg", 30.0, 39.0, Gender.UNKNOWN),
    ]
    assert (propose(tmp_path).images_without_row, propose(tmp_path).format) == (1, "table")


@pytest.mark.parametrize(
    ("line", "message"),
    [("[1]", "line 1 is not a JSON object"), ("{", "line 1 is not JSON"), ("[" * 60_000, "is not JSON")],
)
def test_json_lines_that_cannot_be_read_are_a_problem(tmp_path: Path, line: str, message: str) -> None:
    table(tmp_path, line + "\n", "labels.jsonl")
    with pytest.raises(Problem, match=message):
        propose(tmp_path)


def test_removed_rows_keep_their_reason(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    table(tmp_path, "file,age,gender\na.jpg,25,f\na.jpg,26,f\nb.jpg,200,f\n")
    rows = list(checked_rows(require_format(tmp_path).read(tmp_path, "images"), tmp_path))
    assert [row.reason.value for row in rows if isinstance(row, Removed)] == [
        "repeated-row",
        "age-out-of-range",
    ]
    assert propose(tmp_path).removed == {"age-out-of-range": 1, "repeated-row": 1}


def test_a_proposal_after_an_import_is_what_was_confirmed(tmp_path: Path) -> None:
    table(images(tmp_path, "a.jpg"), "file,age,gender\na.jpg,25,0\n")
    write_labels(tmp_path, LabelChoice(map={"0": "female"}))
    again = propose(tmp_path)
    assert (again.map, again.usable, again.source) == ({"0": "female"}, 1, [ORIGINAL])
    (tmp_path / SOURCE).write_text("[]")
    assert (propose(tmp_path).map, propose(tmp_path).usable) == ({}, 1)


def test_labels_that_a_person_wrote_after_an_import_are_kept_and_read(tmp_path: Path) -> None:
    table(images(tmp_path, "a.jpg"), "image,years\na.jpg,25\n", "people.csv")
    table(tmp_path, "file,age\na.jpg,30\n")
    write_labels(tmp_path)
    assert (tmp_path / ORIGINAL).read_text() == "file,age\na.jpg,30\n"
    table(tmp_path, "file,age\na.jpg,44\n")
    assert [row.age for row in propose(tmp_path).examples] == ["44"]
    write_labels(tmp_path)
    assert (tmp_path / "labels.original-2.csv").read_text() == "file,age\na.jpg,44\n"
    assert (tmp_path / ORIGINAL).read_text() == "file,age\na.jpg,30\n"
    assert propose(tmp_path).source == ["labels.original-2.csv"]


def test_labels_are_exported_as_an_image_folder_and_read_back(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "sub/b.jpg", "c.jpg")
    rows = "a.jpg,25,f,ann,\nb.jpg,30-39,,,\nc.jpg,,m,bob,\nd.jpg,3,m,,\n"
    table(tmp_path, "file,age,gender,subject,fold\n" + rows.replace("b.jpg", "sub/b.jpg"))
    exported = export_metadata(tmp_path)
    assert (exported.rows, exported.summary) == (3, "3 of 4 rows (1 image-missing, e.g. d.jpg)")
    assert (tmp_path / "metadata.csv").read_text() == (
        "file_name,age,gender,subject,fold\na.jpg,25,female,ann,\nsub/b.jpg,30-39,,,\nc.jpg,,male,bob,\n"
    )
    before = [row for row in extracted(tmp_path) if row.file != "d.jpg"]
    (tmp_path / "labels.csv").rename(tmp_path / "mine.txt")
    proposal = propose(tmp_path, LabelChoice(hugging_face=True))
    assert (proposal.source, proposal.usable, proposal.images_without_row) == (["metadata.csv"], 3, 0)
    write_labels(tmp_path, LabelChoice(hugging_face=True))
    assert repr(extracted(tmp_path)) == repr(before)


def test_an_export_does_not_become_the_labels_and_replaces_no_other_table(tmp_path: Path) -> None:
    images(tmp_path, "25_1_0_20170116184020466.jpg", "30_0_0_20170116184020466.jpg")
    assert format_of(tmp_path) is names.UTKFACE
    export_metadata(tmp_path)
    export_metadata(tmp_path)
    assert format_of(tmp_path) is names.UTKFACE
    other = table(images(tmp_path / "other", "a.jpg"), "file_name,age\na.jpg,25\n", "metadata.csv")
    with pytest.raises(Problem, match="Rename it, or send replace=true") as caught:
        export_metadata(other)
    assert caught.value.slug == "file-exists"
    assert (other / "metadata.csv").read_text() == "file_name,age\na.jpg,25\n"


def test_a_folder_that_is_not_of_hugging_face_is_named_as_such(tmp_path: Path) -> None:
    table(images(tmp_path, "a.jpg"), "file,age\na.jpg,25\n", "faces.csv")
    with pytest.raises(Problem, match=r"is no data set of Hugging Face.*'faces\.csv' with the columns"):
        propose(tmp_path, LabelChoice(hugging_face=True))
    (tmp_path / "a.jpg").unlink()
    images(tmp_path, "train/female/b.jpg", "train/male/c.jpg")
    proposal = propose(tmp_path, LabelChoice(hugging_face=True))
    assert (proposal.format, proposal.with_gender) == ("class-folders", 2)
