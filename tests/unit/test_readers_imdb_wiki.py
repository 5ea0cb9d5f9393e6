"""IMDB-WIKI, and `.mat` files that were made to explode."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.labels import Gender
from scipy.io import loadmat, savemat
from trainer.datasets.formats import format_of, imdb_wiki
from trainer.datasets.labels import LabelledImage, Reason, Removed

from tests.support.mat_files import (
    compressed,
    element,
    mat_file,
    matlab_day,
    matrix,
    nested_cells,
    write_wiki,
)


@pytest.mark.parametrize("compress", [True, False])
def test_rows_are_filtered_as_the_original_does(tmp_path: Path, compress: bool) -> None:
    rows = [
        ("17/a_1981.jpg", matlab_day(1981, 3, 5), 1.0, 2009.0, "Sami Jauhojärvi"),
        ("17/b.jpg", matlab_day(1981, 7, 5), 0.0, 2009.0, "Dettmar"),
        ("17/c.jpg", matlab_day(1881, 3, 5), 0.0, 2009.0, "Old"),
        ("17/d.jpg", matlab_day(2011, 3, 5), 0.0, 2009.0, "Unborn"),
        ("17/e.jpg", matlab_day(1981, 3, 5), np.nan, 2009.0, "Nobody knows"),
        ("17/f.jpg", 0.0, 1.0, 2009.0, "Zero"),
    ]
    write_wiki(tmp_path, rows, compress)
    assert format_of(tmp_path) is imdb_wiki.FORMAT
    assert list(imdb_wiki.read(tmp_path, "images")) == [
        LabelledImage("17/a_1981.jpg", 28.0, 28.0, Gender.MALE, "Sami Jauhojärvi"),
        LabelledImage("17/b.jpg", 27.0, 27.0, Gender.FEMALE, "Dettmar"),
        Removed("17/c.jpg", Reason.AGE_OUT_OF_RANGE),
        Removed("17/d.jpg", Reason.AGE_OUT_OF_RANGE),
        Removed("17/e.jpg", Reason.NO_GENDER),
        Removed("17/f.jpg", Reason.AGE_OUT_OF_RANGE),
    ]


def test_both_parts_in_one_folder_are_read(tmp_path: Path) -> None:
    born = matlab_day(1981, 3, 5)
    path = write_wiki(tmp_path, [("17/a.jpg", born, 1.0, 2009.0, "A")])
    savemat(tmp_path / "imdb.mat", {"imdb": loadmat(path)["wiki"]})
    write_wiki(tmp_path, [("18/b.jpg", born, 0.0, 2009.0, "B")])
    assert [row.file for row in imdb_wiki.read(tmp_path, "images")] == ["17/a.jpg", "18/b.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "level 5"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 500, "level 5"),
        (mat_file(matrix(6, (2**30, 2**30), element(9, b"\0" * 8))), "states .* elements but has only"),
        (mat_file(matrix(1, (2**31 - 1, 1))), "states .* elements but has only"),
        (mat_file(compressed(matrix(1, (10**6, 10**3)))), "states .* elements but has only"),
        (mat_file(matrix(6, (-1, 4), element(9, b"\0" * 8))), "negative dimension"),
        (mat_file(struct.pack("<II", 14, 2**31)), "more bytes than the file has"),
        (mat_file(compressed(b"\0" * 2_000_000)[:100]), "more bytes than the file has"),
        (mat_file(matrix(17, (1, 1), element(1, b"x"))), "class 17"),
        (mat_file(compressed(nested_cells(2000))), "deep"),
    ],
)
def test_a_hostile_file_is_a_problem_and_takes_no_memory(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "wiki.mat").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(Problem, match=message) as caught:
            list(imdb_wiki.read(tmp_path, "images"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.slug == "bad-labels"
    assert peak < 64 * 1024**2


def test_a_zip_bomb_is_refused_before_it_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imdb_wiki, "MAX_UNPACKED", 1_000_000)
    with pytest.raises(imdb_wiki.BadMatFile, match="unpacks to more"):
        imdb_wiki.check_mat(mat_file(compressed(b"\0" * 50_000_000)))


def test_a_file_without_the_table_is_a_problem(tmp_path: Path) -> None:
    savemat(tmp_path / "imdb.mat", {"other": np.arange(3)})
    with pytest.raises(Problem, match="no variable 'imdb'"):
        list(imdb_wiki.read(tmp_path, "images"))
    savemat(tmp_path / "imdb.mat", {"imdb": np.arange(3)})
    with pytest.raises(Problem):
        list(imdb_wiki.read(tmp_path, "images"))
