"""Folds, validation parts, near-duplicates, and data sets put together."""

import numpy as np
import numpy.typing as npt
import pytest
from agegender.datasets import EmbeddingSet
from agegender.errors import Problem
from agegender.spaces import Space
from trainer.datasets.combine import combine
from trainer.datasets.duplicates import (
    duplicate_cosine,
    find_near_duplicates,
    near_duplicate_groups,
    summarise,
)
from trainer.datasets.folds import (
    groups_of,
    require_validation,
    strata_of,
    stratified_folds,
    validation_split,
)
from trainer.datasets.grouping import with_folds
from trainer.experiments.faces import require_validation_parts

from tests.support.made_faces import made_faces

SPACE = Space(id="test-1", dimension=64)


def directions(faces: int, seed: int = 0) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(faces, SPACE.dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def near(vectors: npt.NDArray[np.float32], degrees: float, seed: int = 1) -> npt.NDArray[np.float32]:
    """Vectors at an angle from each of the given ones."""
    other = directions(len(vectors), seed)
    other -= (other * vectors).sum(axis=1, keepdims=True) * vectors
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    angle = np.radians(degrees)
    return np.asarray(np.cos(angle) * vectors + np.sin(angle) * other, dtype=np.float32)


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


def test_too_few_subjects_for_a_validation_part_say_how_many_and_what_to_change() -> None:
    faces = made_faces(20, folds=2)  # two a subject
    with pytest.raises(
        Problem, match=r"there are 5 subjects.* 0\.1 needs 10\. Make validation at least 0\.2"
    ) as it:
        require_validation_parts(faces, faces.fold, [0, 1], 0.1)
    assert it.value.extra["errors"][0]["field"] == "validation"
    require_validation_parts(faces, faces.fold, [0, 1], 0.2)
    one = made_faces(4, folds=2)
    with pytest.raises(Problem, match="single subject"):
        require_validation_parts(one, one.fold, [0], 0.5)


@pytest.mark.parametrize("subjects", range(2, 51))
def test_validation_that_is_proposed_can_be_had(subjects: int) -> None:
    groups = np.arange(subjects)
    with pytest.raises(Problem) as refused:
        require_validation(groups, 0.019)
    proposed = float(str(refused.value.detail).split("at least ")[1].split(",")[0])
    require_validation(groups, proposed)


def test_validation_part_shares_no_subject_with_training() -> None:
    subject = np.random.default_rng(0).integers(0, 150, 2000)
    strata = subject % 7
    chosen = validation_split(strata, subject, fraction=0.1, seed=3)
    assert 0.05 < chosen.mean() < 0.15
    assert not set(subject[chosen]) & set(subject[~chosen])
    assert (chosen == validation_split(strata, subject, fraction=0.1, seed=3)).all()
    assert (chosen != validation_split(strata, subject, fraction=0.1, seed=4)).any()


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


@pytest.mark.parametrize("block", [7, 64, 5000])
def test_near_duplicates_are_grouped_across_blocks_and_along_chains(block: int) -> None:
    strangers = directions(100)
    chain = [strangers[:10]]
    for link in range(3):
        chain.append(near(chain[-1], 20, seed=10 + link))
    groups = near_duplicate_groups(np.concatenate([strangers, *chain[1:]]), 0.9, block)
    assert (groups[:100] == np.arange(100)).all()
    assert (groups[100:].reshape(3, 10) == np.arange(10)).all()
    assert summarise(groups, 0.9).groups == 10
    assert summarise(groups, 0.9).faces == 40


def test_the_cosine_of_duplicates_ends_where_genders_begin_to_mix() -> None:
    people = directions(400)
    gender = np.arange(400) % 2
    mistaken = np.where(np.arange(400) < 12, 1 - gender, gender)
    same = near(people, 20)  # the same persons, 3 % of them with a wrong label
    alike = near(people, 41, seed=5)  # look-alikes: the gender says nothing
    embedding = np.concatenate([people, same, alike])
    other = np.random.default_rng(9).integers(0, 2, 400)
    cosine = duplicate_cosine(embedding, np.concatenate([gender, mistaken, other]))
    assert np.cos(np.radians(41)) < cosine < np.cos(np.radians(20))
    # Without look-alikes there is no reason to stop before 60 degrees.
    assert duplicate_cosine(embedding[:800], np.concatenate([gender, mistaken])) == pytest.approx(0.5)
    assert duplicate_cosine(embedding, np.full(1200, -1)) == 0.7


def test_a_space_that_knows_genders_does_not_chain_strangers_into_one_group() -> None:
    """Two crowds, one a gender, within 50 degrees of one another; in each, fifty people twice."""
    draws = np.random.default_rng(11)
    poles = directions(2)
    crowd = poles[np.repeat([0, 1], 300)] * 1.2 + draws.standard_normal((600, poles.shape[1])) / np.sqrt(
        poles.shape[1]
    )
    crowd = (crowd / np.linalg.norm(crowd, axis=1, keepdims=True)).astype(np.float32)
    again = near(crowd[::6], 10, seed=12)
    gender = np.concatenate([np.repeat([0, 1], 300), np.repeat([0, 1], 50)])
    embedding = np.concatenate([crowd, again])
    loose = near_duplicate_groups(embedding, duplicate_cosine(embedding, gender))
    assert np.bincount(loose).max() > 300  # gender alone would put each crowd into one group
    groups, found = find_near_duplicates(embedding, gender)
    assert np.bincount(groups).max() <= 100
    assert (groups[600:] == groups[:600:6]).mean() > 0.9  # who is there twice stays together
    assert found.threshold > duplicate_cosine(embedding, gender)


def test_an_extracted_set_gets_folds_that_keep_near_duplicates_together() -> None:
    people = directions(60)
    faces = embedding_set(np.concatenate([people, near(people[:20], 10)]))
    same_gender = EmbeddingSet(**{**vars(faces), "gender": np.zeros(80, np.int8)})
    completed, told = with_folds(same_gender)
    assert told["near_duplicates"]["groups"] == 20
    assert told["near_duplicates"]["faces"] == 40
    assert told["subjects"] == 60
    assert (completed.fold[60:] == completed.fold[:20]).all()
    assert (completed.subject[60:] == completed.subject[:20]).all()
    assert (completed.subject[20:60] == "").all()


def test_folds_of_the_data_set_and_known_subjects_stay() -> None:
    people = directions(30)
    faces = embedding_set(np.concatenate([people, people]), [f"s{face}" for face in range(60)], fold=3)
    completed, told = with_folds(faces)
    assert (completed.fold == faces.fold).all()
    assert (completed.subject == faces.subject).all()
    assert told["folds"] == "of the data set"
    assert told["near_duplicates"]["faces"] == 0


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
