"""The labels of an extracted data set, read without its embeddings."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from agegender.spaces import Space
from trainer.datasets.catalog import Dataset, ExtractedSet
from trainer.datasets.embedding_set import BadDataset, read_labels, write_embedding_set
from trainer.datasets.formats import format_name
from trainer.experiments.experiment_data import load_faces, load_labels

from tests.support.made_faces import SPACE, made_faces


def test_labels_are_read_without_the_memory_of_embeddings(tmp_path: Path) -> None:
    space = Space(id="wide-1", dimension=2048)
    faces = made_faces(1000, space=space)
    write_embedding_set(tmp_path, "made", "images", faces, {})
    tracemalloc.start()
    labels = read_labels(tmp_path, "made", space, "images")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for name, column in vars(labels).items():
        np.testing.assert_array_equal(column, getattr(faces, name))
    assert peak < faces.embedding.nbytes / 8


def test_labels_of_several_data_sets_are_those_of_their_faces(tmp_path: Path) -> None:
    write_embedding_set(tmp_path, "many", "images", made_faces(60, folds=5), {})
    write_embedding_set(tmp_path, "few", "images", made_faces(20, folds=2), {})
    labels = load_labels(tmp_path, ["many", "few"], SPACE, "images")
    faces = load_faces(tmp_path, ["many", "few"], SPACE, "images")
    assert set(labels.fold) == {0, 1}
    for name, column in vars(labels).items():
        np.testing.assert_array_equal(column, getattr(faces, name))


def test_labels_beside_what_is_no_embedding_are_refused(tmp_path: Path) -> None:
    write_embedding_set(tmp_path, "made", "images", made_faces(20), {})
    path = tmp_path / "made" / "made-1" / "data-images.npz"
    content = path.read_bytes()
    start = content.index(b"embedding.npy")
    path.write_bytes(content[:start] + content[start:].replace(b"\x93NUMPY", b"\x93NOTPY", 1))
    with pytest.raises(BadDataset):
        read_labels(tmp_path, "made", SPACE, "images")


def test_a_listed_data_set_keeps_the_former_names_of_its_fields_for_one_release() -> None:
    extracted = ExtractedSet(
        space=Space(id="test-1", dimension=2), image_set="aligned", faces=3, meta_data={"kind": "adience"}
    )
    listed = Dataset(
        name="Adience", format="adience", image_sets=["aligned"], importable=[], extracted=[extracted]
    ).model_dump()
    assert (listed["kind"], listed["variants"]) == (listed["format"], listed["image_sets"])
    assert listed["extracted"][0]["variant"] == "aligned"
    assert format_name(extracted.meta_data) == format_name({"format": "adience"}) == "adience"
