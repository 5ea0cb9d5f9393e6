"""The original's extracted data sets are imported by a reader that executes nothing."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.wire import WireError
from trainer.datasets.original import read_original_dataset


def sample(number: int, fold: int | None) -> dict[str, Any]:
    embedding = np.random.default_rng(number).normal(size=512).astype(np.float32)
    made: dict[str, Any] = {
        "image_path": f"data/Adience/aligned/1/landmark_aligned_face.{number}.jpg",
        "age": [28.5, 1.0, 80.0][number % 3],
        "gender": "mf"[number % 2],
        "embedding": embedding,
    }
    if fold is not None:
        made["fold"] = fold
    return made


def adience() -> dict[int, list[dict[str, Any]]]:
    return {fold: [sample(10 * fold + number, fold) for number in range(4)] for fold in range(5)}


def test_an_adience_file_of_folds_is_read(tmp_path: Path) -> None:
    data = adience()
    np.save(tmp_path / "data-aligned.npy", data)  # type: ignore[arg-type]
    samples = read_original_dataset(tmp_path / "data-aligned.npy")
    flat = [face for fold in data.values() for face in fold]
    assert samples.image_path == [face["image_path"] for face in flat]
    assert samples.age.tolist() == [face["age"] for face in flat]
    assert samples.gender == [face["gender"] for face in flat]
    assert samples.fold.tolist() == [face["fold"] for face in flat]
    np.testing.assert_array_equal(samples.embedding, [face["embedding"] for face in flat])


def test_a_list_of_samples_has_no_folds(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", [sample(number, None) for number in range(3)])  # type: ignore[arg-type]
    samples = read_original_dataset(tmp_path / "data.npy")
    assert samples.fold.tolist() == [-1, -1, -1]
    assert samples.embedding.shape == (3, 512)
    assert samples.embedding.dtype == np.float32


class Planted:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize(
    "content",
    [
        Planted(),
        {0: [{**sample(0, 0), "extra": Planted()}]},
        {0: [{**sample(0, 0), "embedding": np.zeros(512, dtype="V8")}]},
        {0: [{**sample(0, 0), "embedding": [1, 2]}, sample(1, 0)]},
        {0: [{"image_path": "x"}]},
        {0: "not a list"},
        {0: []},
        {(0, 1): []},
        ["not a sample"],
        {1, 2},
    ],
)
def test_files_that_hold_something_else_are_refused_and_not_executed(
    content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = np.empty((), dtype=object)
    holder[()] = content
    np.save(tmp_path / "data.npy", holder)
    calls: list[object] = []
    monkeypatch.setattr(os, "system", calls.append)
    with pytest.raises(WireError):
        read_original_dataset(tmp_path / "data.npy")
    assert not calls


def test_a_file_of_numbers_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    np.save(tmp_path / "cut.npy", adience())  # type: ignore[arg-type]
    cut = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "text.npy").write_text("text")
    for name in ("numbers", "cut", "text"):
        with pytest.raises(WireError):
            read_original_dataset(tmp_path / f"{name}.npy")


@pytest.mark.parametrize(
    "opcodes",
    [b"]" * 500_000, b"]" + b"]a" * 500_000, b"]" + b"}a" * 500_000, b"]" + b"\x94" * 500_000],
    ids=["lists kept waiting", "lists in a list", "dicts in a list", "a list remembered time and again"],
)
def test_a_file_that_makes_more_objects_than_faces_need_is_refused_early(
    opcodes: bytes, tmp_path: Path
) -> None:
    holder = np.empty((), dtype=object)
    np.save(tmp_path / "data.npy", holder)
    header = (tmp_path / "data.npy").read_bytes()[:128]
    (tmp_path / "data.npy").write_bytes(header + b"\x80\x04" + opcodes + b".")
    with pytest.raises(WireError, match="more"):
        read_original_dataset(tmp_path / "data.npy")


@pytest.mark.parametrize("dimension", [2, 512])
def test_a_file_of_many_faces_is_read(dimension: int, tmp_path: Path) -> None:
    embedding = np.arange(3000 * dimension, dtype=np.float32).reshape(3000, dimension)
    faces = [{**sample(0, None), "embedding": one.copy()} for one in embedding]
    np.save(tmp_path / "data.npy", faces)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_original_dataset(tmp_path / "data.npy").embedding, embedding)
