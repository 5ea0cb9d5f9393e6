"""Copies of one photograph, faces of one person, and the folds that keep them together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from agegender.errors import Problem
from agegender.spaces import RECOGNISERS, Space, recogniser_of
from embedder.packs.human import human_2_embedders, human_3_embedders
from embedder.packs.pack import Embedder
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer.datasets.duplicates import (
    MAX_HASH_DISTANCE,
    copies,
    join,
    person_groups,
    photograph_groups,
)
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.folds import Grouping, found_groups, joined_subjects, with_folds

from tests.support.packs import human_pack_dir

HUMAN = Space(id="human-2", dimension=2304)
OTHER = Space(id="buffalo_sc-5", dimension=64)


def directions(faces: int, dimension: int, seed: int = 0) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(faces, dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def near(vectors: npt.NDArray[np.float32], cosine: float, seed: int = 1) -> npt.NDArray[np.float32]:
    """Vectors at a cosine from each of the given ones."""
    other = directions(len(vectors), vectors.shape[1], seed)
    other -= (other * vectors).sum(axis=1, keepdims=True) * vectors
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return np.asarray(cosine * vectors + np.sqrt(1 - cosine**2) * other, dtype=np.float32)


def hashes(faces: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (faces, 64)).astype(np.uint8)


def with_bits_changed(hashed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return the hashes with the first `bits` bits of both halves inverted."""
    unpacked = np.unpackbits(hashed, axis=1)
    unpacked[:, :bits] ^= 1
    unpacked[:, 256 : 256 + bits] ^= 1
    return np.packbits(unpacked, axis=1)


def face_set(
    recognised: npt.NDArray[np.float32] | None,
    image_hash: npt.NDArray[np.uint8],
    subject: list[str] | None = None,
    gender: int | None = None,
) -> EmbeddingSet:
    """Faces in `human-2` with these recogniser's vectors; None: in a space without a recogniser."""
    faces = len(image_hash)
    space = OTHER if recognised is None else HUMAN
    embedding = directions(faces, space.dimension, seed=7)
    if recognised is not None:
        # The age and gender part is the same for all: it must not matter.
        embedding[:, :2048] = embedding[0, :2048]
        embedding[:, 2048:] = recognised * np.linalg.norm(embedding[0, 2048:])
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    draws = np.random.default_rng(2)
    age = draws.integers(18, 70, faces).astype(np.float32)
    return EmbeddingSet(
        space=space,
        file=np.array([f"{face}.jpg" for face in range(faces)]),
        embedding=embedding,
        age_low=age,
        age_high=age,
        gender=np.full(faces, gender, np.int8)
        if gender is not None
        else (np.arange(faces) % 2).astype(np.int8),
        subject=np.array(subject or [""] * faces),
        fold=np.full(faces, -1, np.int16),
        embedding_mirrored=np.zeros((0, space.dimension), np.float32),
        file_sha256=hashes(faces, seed=11)[:, :32].copy(),
        image_hash=image_hash,
    )


@pytest.mark.parametrize("block", [7, 64, 5000])
def test_copies_are_found_across_blocks_and_no_others(block: int) -> None:
    originals = hashes(100)
    copied = with_bits_changed(originals[:10], MAX_HASH_DISTANCE)
    different = with_bits_changed(originals[10:20], MAX_HASH_DISTANCE + 1)
    everything = np.concatenate([originals, copied, different])
    found = list(copies(everything, everything, block))
    pairs = np.concatenate([pairs for pairs, _ in found], axis=1)
    assert sorted(map(tuple, pairs.T.tolist())) == [(face, 100 + face) for face in range(10)]
    assert set(np.concatenate([bits for _, bits in found]).tolist()) == {MAX_HASH_DISTANCE}


def test_a_mirrored_copy_is_a_copy() -> None:
    original = hashes(1)
    mirrored = np.concatenate([original[:, 32:], original[:, :32]], axis=1)
    group = photograph_groups(hashes(3, seed=5)[:, :32], np.concatenate([hashes(1, 9), original, mirrored]))
    assert group.tolist() == [0, 1, 1]


def test_files_of_the_same_bytes_are_copies_whatever_they_show() -> None:
    digest = hashes(3, seed=5)[:, :32].copy()
    digest[2] = digest[0]
    assert photograph_groups(digest, hashes(3)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("block", [7, 64, 5000])
def test_persons_are_grouped_along_short_chains(block: int) -> None:
    strangers = directions(100, 256)
    second = near(strangers[:10], 0.85)
    third = near(second, 0.85, seed=3)
    groups = person_groups(np.concatenate([strangers, second, third]), 0.8, block)
    assert (groups[:100] == np.arange(100)).all()
    assert (groups[100:110] == np.arange(10)).all()
    assert (groups[110:] == np.arange(10)).all()


def test_a_long_chain_of_look_alikes_is_divided_and_a_person_of_many_faces_is_not() -> None:
    angle = np.arange(60) * np.arccos(0.81)
    chain = np.zeros((60, 256), np.float32)
    for step in range(60):  # each is like the next only: a walk over ever new dimensions
        chain[step, step] = np.cos(angle[1]) if step else 1
        chain[step, step + 1] = np.sqrt(1 - chain[step, step] ** 2)
    walk = np.cumsum(chain, axis=0)
    walk /= np.linalg.norm(walk, axis=1, keepdims=True)
    many = near(np.repeat(directions(1, 256, seed=8), 50, axis=0), 0.95)
    groups = person_groups(np.concatenate([walk, many]), 0.8)
    vectors = np.concatenate([walk, many])
    for name in np.unique(groups):
        rows = np.flatnonzero(groups == name)
        assert (vectors[rows] @ vectors[rows].T).min() >= 0.8 - 1e-5
    assert len(np.unique(groups[:60])) > 1
    assert len(np.unique(groups[60:])) == 1


def test_very_many_equal_faces_are_one_person_in_bounded_memory() -> None:
    assert (person_groups(np.repeat(directions(1, 256), 2000, axis=0), 0.8) == 0).all()


@pytest.mark.parametrize("people", [40, 100, 280])
def test_people_of_one_gender_stay_as_many_subjects(people: int) -> None:
    """The age and gender part of their embeddings is the same; only the recogniser's counts."""
    faces = face_set(directions(people, 256), hashes(people), gender=0)
    _, meta_data = with_folds(faces)
    assert meta_data["subjects"] == people
    assert meta_data["near_duplicates"]["method"] == "persons"


def test_folds_keep_copies_and_persons_together() -> None:
    people = directions(60, 256)
    vectors = np.concatenate([people, near(people[:20], 0.9), directions(10, 256, seed=4)])
    image_hash = np.concatenate([hashes(80), with_bits_changed(hashes(80)[30:40], 8)])
    completed, meta_data = with_folds(face_set(vectors, image_hash))
    assert meta_data["subjects"] == 60
    assert meta_data["near_duplicates"]["photographs"]["groups"] == 10
    assert meta_data["near_duplicates"]["persons"]["groups"] == 20
    assert meta_data["near_duplicates"]["faces"] == 60
    assert (completed.subject[60:80] == completed.subject[:20]).all()
    assert (completed.fold[60:80] == completed.fold[:20]).all()
    assert (completed.fold[80:] == completed.fold[30:40]).all()
    assert (completed.photograph[80:] == np.arange(30, 40)).all()
    assert (completed.subject[40:60] == "").all()
    groups = list(found_groups(completed, None))
    assert len(groups) == 30
    assert {group["found_by"] for group in groups} == {"photographs", "persons"}
    assert ["30.jpg", "80.jpg"] in [group["files"] for group in groups]


def test_near_duplicates_can_be_photographs_only_or_off() -> None:
    people = directions(40, 256)
    vectors = np.concatenate([people, near(people[:10], 0.95)])
    image_hash = hashes(50)
    image_hash[49] = image_hash[39]
    faces = face_set(vectors, image_hash)
    subjects = {
        mode: with_folds(faces, Grouping(mode))[1]["subjects"] for mode in ("off", "photographs", "persons")
    }
    assert subjects == {"off": 50, "photographs": 49, "persons": 39}


def test_a_space_without_a_recogniser_finds_photographs_or_takes_subjects_of_another_space() -> None:
    image_hash = hashes(40)
    image_hash[39] = image_hash[0]
    faces = face_set(None, image_hash)
    assert recogniser_of(faces.space) is None
    completed, meta_data = with_folds(faces)
    assert meta_data["near_duplicates"]["method"] == "photographs"
    assert meta_data["subjects"] == 39
    with pytest.raises(Problem, match="human-2") as caught:
        with_folds(faces, Grouping("persons"))
    assert (caught.value.slug, caught.value.status) == ("no-recogniser", 422)
    given = Grouping(None, {"1.jpg": "ann", "2.jpg": "ann", "3.jpg": "", "gone.jpg": "ann"}, "human-2")
    completed, meta_data = with_folds(faces, given)
    assert completed.subject[1:4].tolist() == ["ann", "ann", ""]
    assert meta_data["subjects"] == 38
    assert meta_data["near_duplicates"]["persons"] == {"subjects_from": "human-2"}


def test_labelled_subjects_win_over_found_ones() -> None:
    people = directions(30, 256)
    vectors = np.concatenate([people, people])
    names = ["twin"] * 2 + [""] * 28 + ["other"] * 2 + [""] * 28
    completed, _ = with_folds(face_set(vectors, hashes(60), names))
    # The labels say that these are two people, however alike; copies of one photograph would be one.
    assert completed.subject[0] == "twin" and completed.subject[30] == "other"
    assert (completed.subject[2:30] == completed.subject[32:]).all()


def test_a_data_set_of_unequal_folds_reports_it() -> None:
    faces = face_set(directions(98, 256), hashes(98), ["crowd"] * 45 + [""] * 53)
    _, meta_data = with_folds(faces)
    assert "45 of 98 faces" in meta_data["warning"]
    _, even = with_folds(face_set(directions(98, 256), hashes(98)))
    assert "warning" not in even


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=6, max_size=25),
    linked=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=10),
    seed=st.integers(0, 2**16),
)
def test_folds_never_share_a_subject_or_a_photograph(
    sizes: list[int], linked: list[tuple[int, int]], seed: int
) -> None:
    subject = np.repeat([f"s{number}" for number in range(len(sizes))], sizes)
    faces = len(subject)
    image_hash = hashes(faces, seed)
    for first, second in linked:
        image_hash[first % faces] = image_hash[second % faces]
    made = replace(face_set(directions(faces, 256, seed), image_hash), subject=subject)
    try:
        completed, _ = with_folds(made)
    except Problem as problem:
        assert problem.slug == "too-few-subjects"
        return
    for name in set(subject.tolist()):
        assert len(set(completed.fold[subject == name].tolist())) == 1
    for name in set(completed.photograph.tolist()):
        assert len(set(completed.fold[completed.photograph == name].tolist())) == 1


def test_joined_subjects_do_not_depend_on_the_space() -> None:
    group = np.array([0, 1, 1, 3])
    file = np.array(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    names = joined_subjects(np.array([""] * 4), group, file)
    assert names[0] == names[3] == ""
    assert names[1] == names[2] != ""
    others = joined_subjects(np.array([""] * 3), np.array([0, 0, 2]), file[1:])
    assert others[0] == names[1]


def test_join_connects_groups_through_pairs() -> None:
    label = join(np.arange(5), [np.array([[0, 1], [2, 2]]), np.array([[4], [3]])])
    assert label.tolist() == [0, 0, 0, 3, 3]


@pytest.mark.parametrize(
    ("space", "load", "dimension"),
    [("human-2", human_2_embedders, HUMAN.dimension), ("human-3", human_3_embedders, 3600)],
)
def test_the_recogniser_of_a_human_pack_is_its_last_embedder(
    space: str, load: Callable[[Path, int], list[Embedder]], dimension: int
) -> None:
    """The columns that the trainer compares are those that mobileface fills."""
    *others, mobileface = load(human_pack_dir(), 1)
    crop = np.zeros((1, mobileface.size, mobileface.size, 3), np.uint8)
    width = mobileface.embed(crop).shape[1]
    before = sum(one.embed(np.zeros((1, one.size, one.size, 3), np.uint8)).shape[1] for one in others)
    assert RECOGNISERS[space].columns == slice(before, before + width)
    assert before + width == dimension
