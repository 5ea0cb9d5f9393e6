"""Folds, validation parts, near-duplicates, and data sets put together."""

import numpy as np
import numpy.typing as npt
import pytest
from agegender.errors import Problem
from agegender.spaces import Space
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer.datasets.embedding_set import EmbeddingSet, combine
from trainer.datasets.folds import (
    groups_of,
    strata_of,
    stratified_folds,
    validation_note,
    validation_split,
    with_folds,
)
from trainer.experiments.experiment_data import require_validation_folds

from tests.support.made_faces import made_faces

SPACE = Space(id="test-1", dimension=64)


def directions(faces: int, seed: int = 0) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(faces, SPACE.dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def embedding_set(
    embedding: npt.NDArray[np.float32], subject: list[str] | None = None, fold: int | None = None
) -> EmbeddingSet:
    faces = len(embedding)
    generator = np.random.default_rng(2)
    age = generator.integers(0, 90, faces).astype(np.float32)
    return EmbeddingSet(
        space=SPACE,
        file=np.array([f"{face}.jpg" for face in range(faces)]),
        embedding=embedding,
        age_low=age,
        age_high=age,
        gender=generator.integers(0, 2, faces).astype(np.int8),
        subject=np.array(subject or [""] * faces),
        fold=np.full(faces, -1, np.int16) if fold is None else (np.arange(faces) % fold).astype(np.int16),
        embedding_mirrored=np.zeros((0, SPACE.dimension), np.float32),
    )


def test_no_subject_is_in_two_folds_and_folds_are_alike() -> None:
    generator = np.random.default_rng(0)
    subject = generator.integers(0, 300, 3000)
    age, gender = generator.integers(0, 90, 300)[subject] + 0.0, generator.integers(0, 2, 300)[subject]
    strata = strata_of(age, age, gender)
    fold = stratified_folds(strata, subject)
    assert set(fold) == {0, 1, 2, 3, 4}
    assert all(len(set(fold[subject == number])) == 1 for number in range(300))
    women = [float((gender[fold == number] == 0).mean()) for number in range(5)]
    assert max(women) - min(women) < 0.05
    young = [float((age[fold == number] < 20).mean()) for number in range(5)]
    assert max(young) - min(young) < 0.08
    assert (fold == stratified_folds(strata, subject)).all()


def test_faces_alone_and_faces_of_subjects_are_divided_together() -> None:
    subject = np.concatenate([np.repeat(np.arange(200), 3), np.arange(200, 1200)])
    strata = np.random.default_rng(0).integers(0, 20, len(subject))
    fold = stratified_folds(strata, subject)
    assert np.bincount(fold).min() > 0.9 * len(subject) / 5
    assert all(len(set(fold[subject == number])) == 1 for number in range(200))


def test_a_single_subject_beside_the_held_out_fold_cannot_validate() -> None:
    faces = made_faces(20, folds=2)  # two a subject
    require_validation_folds(faces, faces.fold, [0, 1])
    one = made_faces(4, folds=2)
    with pytest.raises(Problem, match="single subject") as it:
        require_validation_folds(one, one.fold, [0])
    assert it.value.extra["errors"][0]["field"] == "validation"


def test_a_subject_of_half_the_faces_stays_in_training() -> None:
    groups = np.concatenate([np.zeros(45, np.int64), np.arange(1, 54)])
    for seed in range(20):
        validates = validation_split(np.arange(98) % 3, groups, 0.1, seed)
        assert 8 <= validates.sum() <= 12
        assert not validates[:45].any()
    assert validation_note(10, 88, 0.1) is None


@pytest.mark.parametrize(
    ("sizes", "fraction", "validate"),
    [
        ([50, 48], 0.1, 48),  # nothing nearer is possible
        ([33, 33, 33], 0.1, 33),
        ([90, 1, 1, 1], 0.1, 3),  # all small ones together
        ([1] * 9, 0.1, 1),
        ([60, 10, 60, 60], 0.05, 10),
        ([2, 2], 0.9, 2),  # training keeps half
    ],
)
def test_the_validation_split_is_the_nearest_that_divides_no_subject(
    sizes: list[int], fraction: float, validate: int
) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    assert validation_split(np.zeros(len(groups), np.int64), groups, fraction).sum() == validate


def test_a_validation_split_far_from_what_was_requested_reports_it() -> None:
    note = validation_note(48, 50, 0.1)
    assert note is not None
    assert all(value in note for value in ("48 of 98 faces", "49%", "10%"))
    assert validation_note(2, 96, 0.1) is not None
    assert validation_note(12, 86, 0.1) is None


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=40),
    fraction=st.floats(0.02, 0.5),
    seed=st.integers(0, 1000),
)
def test_validation_never_divides_a_subject_nor_outgrows_training(
    sizes: list[int], fraction: float, seed: int
) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    validates = validation_split(groups % 5, groups, fraction, seed)
    assert 0 < validates.sum() <= (~validates).sum()
    assert not set(groups[validates].tolist()) & set(groups[~validates].tolist())
    # No single subject is much nearer to what was requested.
    aim = fraction * len(groups)
    possible = [size for size in sizes if 2 * size <= len(groups)]
    nearest = min(abs(size - aim) for size in possible)
    assert abs(validates.sum() - aim) <= nearest + max(1, 0.5 * aim)


def test_validation_part_shares_no_subject_with_training() -> None:
    subject = np.random.default_rng(0).integers(0, 150, 2000)
    strata = subject % 7
    split = validation_split(strata, subject, fraction=0.1, seed=3)
    assert 0.05 < split.mean() < 0.15
    assert not set(subject[split]) & set(subject[~split])
    assert (split == validation_split(strata, subject, fraction=0.1, seed=3)).all()
    assert (split != validation_split(strata, subject, fraction=0.1, seed=4)).any()


def test_unknown_subjects_are_groups_of_their_own_and_unknown_ages_a_stratum() -> None:
    groups = groups_of(np.array(["a", "", "b", "", "a"]))
    assert groups[0] == groups[4]
    assert len(set(groups.tolist())) == 4
    nan = np.array([np.nan, 34.0, 100.0])
    assert len(set(strata_of(nan, nan, np.array([-1, 0, 1])).tolist())) == 3


@pytest.mark.parametrize("faces", [5, 6, 11])
def test_a_handful_of_faces_is_divided_too(faces: int) -> None:
    fold = stratified_folds(np.arange(faces), np.arange(faces))
    assert set(fold) == {0, 1, 2, 3, 4}


def test_fewer_subjects_than_folds_are_a_problem() -> None:
    with pytest.raises(Problem, match="4 subjects") as caught:
        stratified_folds(np.zeros(8, dtype=np.int64), np.repeat(np.arange(4), 2))
    assert caught.value.status == 422


def test_folds_of_the_data_set_and_known_subjects_stay() -> None:
    people = directions(30)
    faces = embedding_set(np.concatenate([people, people]), [f"s{face}" for face in range(60)], fold=3)
    completed, warning = with_folds(faces)
    assert (completed.fold == faces.fold).all()
    assert (completed.subject == faces.subject).all()
    assert warning["folds"] == "of the data set"
    assert warning["near_duplicates"]["faces"] == 0


def test_combined_sets_keep_their_folds_apart_and_their_subjects_distinct() -> None:
    five = embedding_set(directions(50), ["x"] * 50, fold=5)
    ten = embedding_set(directions(40, seed=4), ["x"] * 20 + [""] * 20, fold=10)
    both = combine({"A": five, "B": ten})
    assert len(both) == 90
    assert (both.fold[:50] == five.fold).all()
    assert (both.fold[50:] == ten.fold % 5).all()
    assert set(both.subject) == {"A/x", "B/x", ""}
    assert both.file[50] == "B/0.jpg"
    assert (both.embedding[50:] == ten.embedding).all()


def test_sets_of_two_spaces_or_without_folds_are_not_combined() -> None:
    faces = embedding_set(directions(10), fold=5)
    other = EmbeddingSet(**{**vars(faces), "space": Space(id="other-1", dimension=64)})
    with pytest.raises(Problem, match="other-1"):
        combine({"A": faces, "B": other})
    with pytest.raises(Problem, match="'B' has no folds"):
        combine({"A": faces, "B": embedding_set(directions(10))})
