"""Import of tables from elsewhere: no label reaches another person's image, and no row vanishes."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from agegender.errors import Problem
from trainer.datasets import importing
from trainer.datasets.formats import format_of, require_format, tables
from trainer.datasets.formats.table_files import MAX_JSON, columns
from trainer.datasets.importing import propose, write_labels
from trainer.datasets.labels import LabelledImage, checked_rows
from trainer.datasets.proposals import LabelChoice

from tests.support.label_folders import images, table, written
from tests.support.mat_files import matlab_day, write_wiki


def extracted(folder: Path) -> list[LabelledImage]:
    read = require_format(folder).read(folder, "images")
    return [row for row in checked_rows(read, folder) if isinstance(row, LabelledImage)]


def labelled(folder: Path) -> dict[str, str]:
    """Import a folder; returns the age of each file in labels.csv."""
    write_labels(folder)
    return {row["file"]: row["age"] for row in written(folder)}


def test_missing_image_does_not_give_its_labels_to_another_person(tmp_path: Path) -> None:
    images(tmp_path, "p2/1.jpg", "p3/2.jpg")
    table(tmp_path, "file,age\np1/1.jpg,5\np2/1.jpg,70\np9/2.jpg,33\n", "annotations.csv")
    assert propose(tmp_path).removed == {"image-missing": 2}
    assert labelled(tmp_path) == {"p2/1.jpg": "70"}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["/home/me/set/p1/1.jpg", "/home/me/set/p2/1.jpg"], ["p1/1.jpg", "p2/1.jpg"]),
        (["p1/1.jpg", "p2/1.jpg"], ["images/p1/1.jpg", "images/p2/1.jpg"]),
        (["C:\\set\\p1\\1.jpg", "C:\\set\\p2\\1.jpg"], ["images/p1/1.jpg", "images/p2/1.jpg"]),
        (["old/a.jpg", "old/b.jpg"], ["new/a.jpg", "new/b.jpg"]),
        (["a", "B.JPG"], ["new/a.jpg", "b.jpg"]),
        (["A.jpg", "a.jpg"], ["x/A.jpg", "x/a.jpg"]),
        (
            ["zo\N{LATIN SMALL LETTER E WITH ACUTE}.jpg", "b.jpg"],
            ["zoe\N{COMBINING ACUTE ACCENT}.jpg", "b.jpg"],
        ),
    ],
)
def test_images_are_found_under_the_paths_of_another_machine(
    tmp_path: Path, given: list[str], found: list[str]
) -> None:
    images(tmp_path, *found)
    table(
        tmp_path, "file,age\n" + "".join(f"{file},{age}\n" for age, file in enumerate(given, 30)), "faces.csv"
    )
    assert labelled(tmp_path) == {file: str(age) for age, file in enumerate(found, 30)}


def test_image_is_not_found_by_a_name_that_two_rows_have(tmp_path: Path) -> None:
    images(tmp_path, "new/1.jpg", "new/b.jpg")
    table(tmp_path, "file,age\np1/1.jpg,5\np2/1.jpg,70\np1/b.jpg,33\n", "faces.csv")
    assert labelled(tmp_path) == {"new/b.jpg": "33"}


@pytest.mark.parametrize(
    "heading",
    [
        "Subject ID",
        "Person ID",
        "subject-id",
        "personid",
        "Participant",
        "participant_id",
        "celeb_id",
        "Individual",
    ],
)
def test_person_is_read_under_usual_headings(tmp_path: Path, heading: str) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    table(tmp_path, f"File Name,Age (years),{heading}\na.jpg,30,7\nb.jpg,40,x\n")
    assert [row.subject for row in extracted(tmp_path)] == ["7", "x"]
    assert propose(tmp_path).subject_column == heading.lower()


def test_person_and_fold_are_read_from_the_columns_that_are_named(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    table(tmp_path, "file,age,who,part\na.jpg,30,ann,0\nb.jpg,40,bob,1\n", "faces.csv")
    proposal = propose(tmp_path)
    assert any("If 'who' or 'part' names the person" in problem for problem in proposal.problems)
    write_labels(tmp_path, LabelChoice(subject_column="Who", fold_column="part"))
    assert [(row["subject"], row["fold"]) for row in written(tmp_path)] == [("ann", "0"), ("bob", "1")]
    assert not any("names the person" in problem for problem in propose(tmp_path).problems)


@pytest.mark.parametrize(
    ("cell", "subject"),
    [("7.0", "7"), ("007", "007"), ("1,000", "1,000"), ("U", "U")]
    + [(text, "") for text in ("unknown", "NaN", "None", "-1", "-", "<NA>")],
)
def test_cell_of_a_person_is_a_name_or_unknown(cell: str, subject: str) -> None:
    assert tables.subject_name(cell) == subject


def test_tables_of_splits_are_read_by_their_own_columns(tmp_path: Path) -> None:
    images(tmp_path, "train/a.jpg", "test/b.jpg")
    table(tmp_path, "file_name,age,gender,subject\na.jpg,30,m,7.0\n", "train/metadata.csv")
    table(tmp_path, "file_name,age,sex,person_id\nb.jpg,20,f,7\n", "test/metadata.csv")
    before = extracted(tmp_path)
    assert [row.subject for row in before] == ["7", "7"]
    assert propose(tmp_path).ready
    write_labels(tmp_path)
    assert extracted(tmp_path) == before


def test_tables_with_the_same_columns_are_read_together_and_others_are_named(tmp_path: Path) -> None:
    images(tmp_path, "img/a.jpg", "img/b.jpg", "img/c.jpg")
    table(tmp_path, "image,age\na.jpg,30\n", "one.csv")
    table(tmp_path, "age,image\n40,b.jpg\n", "two.csv")
    table(tmp_path, "image,sex\nc.jpg,f\n", "zgenders.csv")
    proposal = propose(tmp_path)
    assert (proposal.source, proposal.usable) == (["one.csv", "two.csv"], 2)
    assert "2 tables are read together: one.csv, two.csv." in proposal.problems
    assert "Not read: zgenders.csv. --table NAME reads another table." in proposal.problems
    assert propose(tmp_path, LabelChoice(table="zgenders.csv")).usable == 1
    for name in ("three.csv", "../one.csv", "img/a.jpg"):
        with pytest.raises(Problem, match=r"has no table .*one\.csv, two\.csv, zgenders\.csv"):
            propose(tmp_path, LabelChoice(table=name))


def test_file_beside_each_image_is_no_table_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path, "a.jpg")
    table(tmp_path, "file,age\na.jpg,30\n")
    for number in range(60):
        table(tmp_path, "file,age\na.jpg,1\n", f"{number:05}.txt")
    opened: list[str] = []

    def counted(path: Path, likely: Collection[str] = ()) -> list[str]:
        opened.append(path.name)
        return columns(path, likely)

    monkeypatch.setattr(importing, "columns", counted)
    assert propose(tmp_path).source == ["labels.csv"]
    assert len(opened) <= 22


def test_table_of_a_person_does_not_get_the_limits_of_another_format(tmp_path: Path) -> None:
    images(tmp_path, "00/a.jpg")
    write_wiki(tmp_path, [("00/a.jpg", matlab_day(1981, 3, 5), 0.0, 2009.0, "Ann")])
    write_labels(tmp_path)
    table(tmp_path, "file,age\n00/a.jpg,30\n", "own.csv")
    write_labels(tmp_path, LabelChoice(table="own.csv"))
    assert format_of(tmp_path) is tables.FORMAT
    assert propose(tmp_path).source == ["own.csv"]


def test_boxes_are_cut_out_for_genders_and_columns_that_are_named(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    heads = "face_x0,face_y0,face_x1,face_y1"
    table(tmp_path, f"photo,years_old,gender,{heads}\na.jpg,30,0,1,1,6,6\na.jpg,40,1,2,2,6,6\n", "faces.csv")
    choice = LabelChoice(file_column="photo", age_column="years_old", map={"0": "female", "1": "male"})
    assert write_labels(tmp_path, choice).usable == 2
    assert [(row["age"], row["gender"]) for row in written(tmp_path)] == [("30", "female"), ("40", "male")]
    coded = table(images(tmp_path / "coded", "a.jpg"), f"file,gender,{heads}\na.jpg,0,1,1,6,6\n", "faces.csv")
    mapped = require_format(coded).with_gender_map({"0": "female"})
    assert mapped.unpack is not None
    mapped.unpack(coded, "images", lambda: None)
    assert [(coded / row.file).is_file() for row in mapped.read(coded, "images")] == [True]


def test_imported_labels_keep_the_limits_of_their_format(tmp_path: Path) -> None:
    images(tmp_path, "00/a.jpg")
    write_wiki(tmp_path, [("00/a.jpg", matlab_day(1981, 3, 5), 0.0, 2009.0, "Ann")])
    source = require_format(tmp_path)
    write_labels(tmp_path)
    imported = require_format(tmp_path)
    assert (imported.name, imported.min_det_score, imported.one_face_only) == ("labels.csv", 0.5, True)
    assert imported.with_gender_map({"0": "female"}).one_face_only
    assert source.name == "imdb-wiki"
    write_labels(tmp_path)
    assert require_format(tmp_path).one_face_only
    with (tmp_path / "labels.csv").open("a") as file:
        file.write("00/a.jpg,31,,,\n")
    assert format_of(tmp_path) is tables.FORMAT  # a person's labels now


@pytest.mark.parametrize(
    ("column", "cell", "advice"),
    [
        ("age", "1985-06-12", "34) or as a range"),
        ("age", "140", "0 to 100 years"),
        ("fold", "train", "0 to 99"),
        ("gender", "Herr", "--map herr=female"),
    ],
)
def test_cell_that_cannot_be_read_is_shown_with_what_to_write(
    tmp_path: Path, column: str, cell: str, advice: str
) -> None:
    row = {"age": "30", "gender": "f", "fold": "0"} | {column: cell}
    table(images(tmp_path, "a.jpg"), f"file,{','.join(row)}\na.jpg,{','.join(row.values())}\n")
    proposal = propose(tmp_path)
    assert next(iter(proposal.removed_examples.values())) == f"a.jpg: {cell!r}"
    assert any(advice in problem for problem in proposal.problems)


def test_array_of_json_objects_is_a_table(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    rows = [{"image": "a.jpg", "Age": 30, "sex": "f"}, {"image": "b.jpg", "Age": [30, 39], "sex": None}]
    table(tmp_path, json.dumps(rows), "faces.json")
    assert labelled(tmp_path) == {"a.jpg": "30", "b.jpg": "30-39"}
    assert propose(tmp_path).source == ["faces.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a.jpg": 30}', "expected an array of objects.* got dict"),
        ("[1]", "entry 1 is not a JSON object"),
        ("[", "the file is not JSON"),
        ("[" * 60_000, "the file is not JSON"),
        ("[" + " " * MAX_JSON + "]", "write it as JSON Lines"),
    ],
    ids=["object", "number", "broken", "deep", "large"],
)
def test_json_that_is_no_table_states_why(tmp_path: Path, text: str, message: str) -> None:
    table(tmp_path, text, "faces.json")
    with pytest.raises(Problem, match=message):
        propose(tmp_path)


def test_units_and_decades_of_ages_are_read(tmp_path: Path) -> None:
    images(tmp_path, *(f"{name}.jpg" for name in "abcd"))
    table(tmp_path, "file,age\na.jpg,25 years\nb.jpg,20s\nc.jpg,30-39y\nd.jpg,5-May\n")
    ages = np.array([(row.age_low, row.age_high) for row in extracted(tmp_path)])
    assert ages.tolist() == [[25, 25], [20, 29], [30, 39], [5, 5]]
