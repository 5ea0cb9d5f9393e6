"""Labels in names are read beside images and folders that have none, and beside numbers of other meaning."""

from pathlib import Path

import pytest
from agegender.labels import Gender
from trainer.datasets.formats import format_of, names
from trainer.datasets.labels import LabelledImage


def labelled(folder: Path, *files: str) -> list[LabelledImage]:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    found = format_of(folder)
    assert found is not None
    return [row for row in found.read(folder, "images") if isinstance(row, LabelledImage)]


def test_other_images_beside_the_folder_of_utkface_do_not_hide_it(tmp_path: Path) -> None:
    own = [f"UTKFace/{age}_0_1_20170116184020466.jpg" for age in range(1, 81)]
    assert len(labelled(tmp_path, *own, *(f"other{number}.jpg" for number in range(90)))) == 80
    assert format_of(tmp_path) is names.UTKFACE


@pytest.mark.parametrize("name", ["10_0_1_345_face0.jpg", "10_0_1_345 (2).jpg", "10_0_1_345.jpg.chip.jpg"])
def test_suffix_behind_the_number_of_a_similar_set_is_accepted(tmp_path: Path, name: str) -> None:
    (row,) = labelled(tmp_path, name)
    assert (row.age_low, row.gender) == (10, Gender.MALE)


@pytest.mark.parametrize("parts", [("1",), ("1", "2"), ("3",)])
def test_takes_below_ages_are_no_genders(tmp_path: Path, parts: tuple[str, ...]) -> None:
    rows = labelled(tmp_path, *(f"{age}/{part}/x.jpg" for age in range(18, 60) for part in parts))
    assert len(rows) == 42 * len(parts)
    assert {row.gender for row in rows} == {Gender.UNKNOWN}


def test_folders_without_labels_beside_ages_do_not_hide_them(tmp_path: Path) -> None:
    ages = [f"{age}/{number}.jpg" for age in range(18, 60) for number in range(2)]
    assert len(labelled(tmp_path, *ages, *(f"stray{number}/x.jpg" for number in range(15)))) == 84
