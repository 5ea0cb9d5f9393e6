from collections import Counter
from pathlib import Path

import pytest
from agegender.errors import Problem
from agegender.labels import Gender, age_groups_of
from trainer.datasets.formats import format_of, published
from trainer.datasets.labels import LabelledImage, LabelRow, Reason, Removed, checked_rows

from tools.stack import RESEARCH_DATA

COLUMNS = "user_id original_image face_id age gender x y dx dy tilt_ang fiducial_yaw_angle fiducial_score"
HEADER = COLUMNS.replace(" ", "\t")
GEOMETRY = "\t0\t0\t10\t10\t0\t0\t50"


def write_folds(folder: Path, *rows: str) -> Path:
    for fold in range(published.FOLDS):
        text = "\n".join([HEADER, *(row + GEOMETRY for row in rows if fold == 0)]) + "\n"
        published.adience_label_file(folder, fold).write_text(text)
    return folder


@pytest.fixture(scope="module")
def original_rows() -> list[LabelRow]:
    folder = RESEARCH_DATA / "adience"
    if not folder.is_dir():
        pytest.skip(f"the Adience label files are not in {folder}")
    return list(checked_rows(published.read_adience(folder, "aligned")))


def test_counts_of_the_label_files_are_the_published_ones(original_rows: list[LabelRow]) -> None:
    unique = [
        row for row in original_rows if not (isinstance(row, Removed) and row.reason is Reason.REPEATED_ROW)
    ]
    assert len(unique) == 19_370
    per_fold = Counter(row.fold for row in unique)
    assert [per_fold[fold] for fold in range(5)] == [4_484, 3_730, 3_894, 3_446, 3_816]
    reasons = Counter(row.reason for row in original_rows if isinstance(row, Removed))
    assert reasons == {Reason.REPEATED_ROW: 117, Reason.NO_AGE: 748, Reason.NO_GENDER: 1_170}


def test_left_over_faces_are_the_published_ones_and_those_that_detection_removes(
    original_rows: list[LabelRow],
) -> None:
    kept = [row for row in original_rows if isinstance(row, LabelledImage)]
    assert len(kept) == 17_055 + 322 + 75
    women = sum(row.gender is Gender.FEMALE for row in kept)
    assert 0 <= women - 9_103 <= 322 + 75
    assert 0 <= (len(kept) - women) - 7_952 <= 322 + 75


def test_age_groups_differ_from_the_original_only_where_the_docs_say(original_rows: list[LabelRow]) -> None:
    kept = [row for row in original_rows if isinstance(row, LabelledImage)]
    midpoints = [1.0, 5.0, 10.0, 17.5, 28.5, 40.5, 50.5, 80.0]
    # The original takes the nearest midpoint, the first of two in the order in which it lists them.
    order = [4, 5, 1, 7, 3, 6, 2, 0]
    published_groups = [1_363, 2_087, 2_226, 1_761, 5_162, 2_719, 907, 830]
    counts: Counter[int] = Counter()
    differing: Counter[tuple[float, float]] = Counter()
    for row in kept:
        age = (row.age_low + row.age_high) / 2
        original = min(order, key=lambda group: abs(midpoints[group] - age))
        counts[original] += 1
        if original != age_groups_of(age):
            differing[row.age_low, row.age_high] += 1
    assert all(counts[group] >= published_groups[group] for group in range(8))
    assert sum(counts.values()) - sum(published_groups) == 322 + 75
    assert differing == {(35, 35): 293, (57, 57): 24, (3, 3): 18, (58, 58): 5}


def test_folds_share_no_album_and_no_person(original_rows: list[LabelRow]) -> None:
    folds: dict[str, set[int]] = {}
    for row in original_rows:
        folds.setdefault(row.file.split("/")[0], set()).add(row.fold)
    assert len(folds) == 168
    assert all(len(found) == 1 for found in folds.values())
    assert {row.subject for row in original_rows if isinstance(row, LabelledImage)} <= set(folds)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("(0, 2)", (0, 2)),
        ("(60, 100)", (60, 100)),
        ("(27, 32)", (27, 32)),
        ("(38, 42)", (38, 42)),
        ("(8, 23)", (8, 23)),
        ("(25, 23)", (25, 32)),
        ("35", (35, 35)),
        ("None", None),
        ("", None),
        ("(1, 2, 3)", None),
    ],
)
def test_age_strings(text: str, interval: tuple[int, int] | None) -> None:
    assert published.adience_interval(text) == interval


def test_files_are_named_as_the_data_set_lays_them_out(tmp_path: Path) -> None:
    write_folds(tmp_path, "7@N01\tphoto_o.jpg\t12\t(25, 32)\tf")
    (aligned,) = published.read_adience(tmp_path, "aligned")
    (faces,) = published.read_adience(tmp_path, "faces")
    assert aligned == LabelledImage(
        "7@N01/landmark_aligned_face.12.photo_o.jpg", 25.0, 32.0, Gender.FEMALE, subject="7@N01", fold=0
    )
    assert faces.file == "7@N01/coarse_tilt_aligned_face.12.photo_o.jpg"


def test_a_row_that_points_out_of_the_folder_is_removed(tmp_path: Path) -> None:
    write_folds(tmp_path, "../../etc\tphoto_o.jpg\t12\t(25, 32)\tf")
    (row,) = checked_rows(published.read_adience(tmp_path, "aligned"))
    assert isinstance(row, Removed)
    assert row.reason is Reason.BAD_FILE_NAME


def test_missing_columns_are_named(tmp_path: Path) -> None:
    write_folds(tmp_path)
    published.adience_label_file(tmp_path, 3).write_text("user_id\tage\n")
    with pytest.raises(Problem, match=r"fold_3_data\.txt.*face_id, gender is missing") as caught:
        list(published.read_adience(tmp_path, "aligned"))
    assert caught.value.status == 422


def test_a_folder_with_all_five_label_files_is_adience(tmp_path: Path) -> None:
    write_folds(tmp_path)
    (tmp_path / "faces").mkdir()
    kind = format_of(tmp_path)
    assert kind is published.ADIENCE
    assert kind.image_sets(tmp_path) == ["faces"]
    published.adience_label_file(tmp_path, 4).unlink()
    assert format_of(tmp_path) is None
