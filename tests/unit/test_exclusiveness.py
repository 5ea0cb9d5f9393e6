"""No photograph and no subject on both sides of a split, over all data sets of an experiment."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.files import read_npz, write_npz
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer.datasets.embedding_set import EmbeddingSet, FaceLabels, read_labels, write_embedding_set
from trainer.datasets.exclusiveness import (
    check,
    exclusiveness_warnings,
    merged,
    require_exclusive,
    shared_faces,
)
from trainer.datasets.folds import Grouping, NearDuplicates, with_folds
from trainer.experiments.experiment import MERGED, merged_subjects, save_experiment
from trainer.experiments.experiment_data import (
    as_one,
    exclusive_labels,
    load_faces,
    write_merged,
)
from trainer.experiments.warm_start import require_unseen
from trainer.reports.contents import exclusiveness
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.made_faces import SPACE, made_faces


def hashed(faces: EmbeddingSet, seed: int, names: str = "") -> EmbeddingSet:
    """With hashes of images that do not exist, and with subjects of their own."""
    draws = np.random.default_rng(seed)
    return replace(
        faces,
        file_sha256=draws.integers(0, 256, (len(faces), 32)).astype(np.uint8),
        image_hash=draws.integers(0, 256, (len(faces), 64)).astype(np.uint8),
        photograph=np.arange(len(faces), dtype=np.int32),
        subject=np.char.add(names, faces.subject) if names else np.full(len(faces), ""),
    )


def shuffled_folds(faces: EmbeddingSet) -> EmbeddingSet:
    return replace(faces, fold=np.roll(faces.fold, 3))


A = hashed(made_faces(70, seed=1), 1, "a")
B = hashed(made_faces(50, seed=2), 2, "b")


def write(data_dir: Path, **sets: EmbeddingSet) -> None:
    for name, faces in sets.items():
        write_embedding_set(data_dir, name, "images", faces, {})


def checked(
    data_dir: Path, datasets: list[str], overlap: Any = "refuse"
) -> tuple[FaceLabels, dict[str, Any]]:
    return exclusive_labels(data_dir, datasets, SPACE, "images", overlap)


def test_strange_data_sets_pass_and_the_report_states_what_was_checked(tmp_path: Path) -> None:
    write(tmp_path, A=A, B=B)
    _, report = checked(tmp_path, ["A", "B"])
    assert report == {"overlap": "refuse", "found": {}, "examples": [], "not_checked": []}
    experiment = {"exclusiveness": report, "warnings": exclusiveness_warnings(report)}
    assert exclusiveness({"experiment": experiment}) == [
        "Checked: no file, no photograph and no subject is in several folds, across all data sets."
    ]


def test_the_same_images_as_two_data_sets_are_refused_with_examples(tmp_path: Path) -> None:
    write(tmp_path, A=A, copy=shuffled_folds(replace(A, subject=np.char.replace(A.subject, "a", "c"))))
    with pytest.raises(Problem) as caught:
        checked(tmp_path, ["A", "copy"])
    assert (caught.value.slug, caught.value.status) == ("overlapping-faces", 409)
    assert caught.value.extra["found"]["same-file"] == {"groups": 70, "faces": 140}
    assert "70 image files that occur more than once (140 faces)" in caught.value.detail
    example = caught.value.extra["examples"][0]
    assert example["files"] == ["A/00000.jpg", "copy/00000.jpg"]
    assert example["folds"][0] != example["folds"][1]


def test_recompressed_and_mirrored_copies_in_another_data_set_are_refused(tmp_path: Path) -> None:
    image_hash = B.image_hash.copy()
    image_hash[0] = A.image_hash[10]
    image_hash[0, :4] ^= 0xFF  # 32 bits
    image_hash[1] = np.roll(A.image_hash[11], 32)  # mirrored
    write(tmp_path, A=A, B=replace(B, image_hash=image_hash))
    with pytest.raises(Problem) as caught:
        checked(tmp_path, ["A", "B"])
    assert caught.value.extra["found"] == {"same-photograph": {"groups": 2, "faces": 4}}


def test_data_sets_that_name_the_same_people_are_refused(tmp_path: Path) -> None:
    write(tmp_path, A=A, B=replace(B, subject=A.subject[:50]))
    with pytest.raises(Problem, match="names of subjects that several data sets use") as caught:
        checked(tmp_path, ["A", "B"])
    assert caught.value.extra["found"] == {"same-subject": {"groups": 25, "faces": 100}}


def with_names(faces: EmbeddingSet, *names: str) -> EmbeddingSet:
    """With these subjects for the first faces."""
    subject = faces.subject.astype(object)
    subject[: len(names)] = names
    return replace(faces, subject=subject.astype(np.str_))


def two_names(near_duplicates: NearDuplicates | None = None) -> EmbeddingSet:
    """Extract `imdb`, in which one photograph has two names; the other three faces are Brad's."""
    image_hash = A.image_hash.copy()
    image_hash[1] = image_hash[0]
    imdb = replace(with_names(A, "Angelina", *["Brad"] * 4, "a2"), image_hash=image_hash)
    return with_folds(replace(imdb, fold=np.full(70, -1, np.int16)), Grouping(near_duplicates))[0]


WIKI = with_folds(with_names(replace(B, fold=np.full(50, -1, np.int16)), "Brad", "Brad", "b1", "b1"))[0]


def test_a_photograph_under_two_names_hides_neither_from_other_data_sets(tmp_path: Path) -> None:
    imdb = two_names()
    assert set(imdb.subject[:5].tolist()) == {"Angelina"}
    write(tmp_path, imdb=imdb, wiki=WIKI)
    with pytest.raises(Problem, match="names of subjects that several data sets use") as caught:
        checked(tmp_path, ["imdb", "wiki"])
    assert caught.value.extra["found"] == {"same-subject": {"groups": 1, "faces": 7}}
    labels, report = checked(tmp_path, ["imdb", "wiki"], "merge")
    assert report["found"] == caught.value.extra["found"]
    assert set(labels.subject[[0, 1, 2, 3, 4, 70, 71]].tolist()) == {"imdb/Angelina"}
    assert len(set(labels.fold[[0, 1, 2, 3, 4, 70, 71]].tolist())) == 1


def test_both_names_of_a_photograph_are_seen_by_networks_trained_on_it() -> None:
    imdb = two_names()
    assert shared_faces({"imdb": imdb}, {"wiki": WIKI}) == (2, ["wiki/00000.jpg", "wiki/00001.jpg"])
    assert shared_faces({"wiki": WIKI}, {"imdb": imdb})[0] == 5
    other = with_folds(with_names(B, "Angelina"))[0]
    assert shared_faces({"imdb": imdb}, {"other": other}) == (1, ["other/00000.jpg"])
    # Without the joining, only the faces of that name.
    assert shared_faces({"wiki": WIKI}, {"imdb": two_names("off")})[0] == 4


def test_data_sets_that_each_joined_a_name_with_another_are_compared_by_all_of_them(tmp_path: Path) -> None:
    image_hash = B.image_hash.copy()
    image_hash[1] = image_hash[0]
    other = with_folds(replace(with_names(B, "Aaron", "Brad", "Zoe", "Zoe"), image_hash=image_hash))[0]
    assert other.subject[:2].tolist() == ["Aaron", "Aaron"]
    write(tmp_path, imdb=two_names(), other=other)
    assert checked(tmp_path, ["imdb", "other"], "allow")[1]["found"] == {
        "same-subject": {"groups": 1, "faces": 7}
    }


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Angelina_Jolie", "Angelina Jolie", True),
        ("angelina jolie", "Angelina JOLIE", True),
        (" Angelina Jolie ", "Angelina Jolie", True),
        ("Penélope Cruz", "Pene\u0301lope_Cruz", True),
        ("Penélope Cruz", "Penelope Cruz", False),
        ("Angelina Jolie", "AngelinaJolie", False),
        ("7", "7", True),  # data sets may number different people alike: overlap is set to allow
        ("7", "07", False),
        ("near-duplicates-01", "near-duplicates-01", False),
        ("", "", False),
        ("_", " ", False),
    ],
)
def test_names_are_compared_without_case_blanks_and_unicode_form(first: str, second: str, same: bool) -> None:
    one, other = with_names(A, first, first, first), with_names(B, second, second)
    assert shared_faces({"one": one}, {"other": other})[0] == (2 if same else 0)
    sets: dict[str, FaceLabels] = {"one": one, "other": other}
    faces = as_one(sets)
    assert ("same-subject" in check(faces, sets).found) == same
    assert faces.subject[0] == (f"one/{first}" if first else "")  # stored names stay as they are


def test_all_spellings_of_a_name_are_joined_if_another_data_set_has_it(tmp_path: Path) -> None:
    one = with_names(A, "Brad Pitt", "a0", "Brad_Pitt", "a1", "brad pitt", "a2")
    write(tmp_path, one=one, other=with_names(B, "BRAD PITT", "b0", "Brad__Pitt", "b1"))
    assert "same-subject" not in checked(tmp_path, ["one"], "allow")[1]["found"]
    for names, rows in (
        (["one", "other"], [0, 2, 4, 70, 72]),
        (["other", "one"], [0, 2, 50, 52, 54]),
    ):
        labels, report = checked(tmp_path, names, "merge")
        assert report["found"]["same-subject"] == {"groups": 1, "faces": 5}
        assert len(set(labels.subject[rows].tolist())) == len(set(labels.fold[rows].tolist())) == 1


def test_the_labelled_subject_is_kept_beside_the_joined_one(tmp_path: Path) -> None:
    imdb = two_names()
    write(tmp_path, imdb=imdb, off=two_names("off"))
    stored = read_labels(tmp_path, "imdb", SPACE, "images")
    assert stored.labelled_subject[:5].tolist() == ["Angelina", *["Brad"] * 4]
    assert (read_labels(tmp_path, "off", SPACE, "images").labelled_subject == stored.labelled_subject).all()
    path = tmp_path / "imdb" / SPACE.id / "data-images.npz"
    arrays = read_npz(path)
    del arrays["labelled_subject"]
    write_npz(path, arrays)
    old = read_labels(tmp_path, "imdb", SPACE, "images")
    assert len(old.labelled_subject) == 0 and (old.subject == imdb.subject).all()
    angelina = with_folds(with_names(B, "Angelina"))[0]
    assert shared_faces({"old": old}, {"other": angelina}) == (1, ["other/00000.jpg"])
    assert shared_faces({"old": old}, {"other": WIKI}) == (0, [])


def test_names_given_to_near_duplicates_are_not_people(tmp_path: Path) -> None:
    names = np.full(50, "near-duplicates-0123456789ab")
    write(tmp_path, A=replace(A, subject=np.resize(names, 70), fold=A.fold * 0))
    write(tmp_path, B=replace(B, subject=names, fold=B.fold * 0))
    assert checked(tmp_path, ["A", "B"])[1]["found"] == {}


def test_a_subject_in_two_of_the_data_sets_own_folds_is_refused(tmp_path: Path) -> None:
    fold = A.fold.copy()
    fold[1] = (fold[0] + 1) % 5  # the first two faces are of one subject
    write(tmp_path, A=replace(A, fold=fold))
    with pytest.raises(Problem, match="1 subjects that are in several folds") as caught:
        checked(tmp_path, ["A"])
    assert caught.value.extra["examples"][0]["files"] == ["00000.jpg", "00001.jpg"]


def test_a_photograph_in_two_of_the_data_sets_own_folds_is_refused(tmp_path: Path) -> None:
    photograph = np.arange(70, dtype=np.int32)
    photograph[2] = 0
    write(tmp_path, A=replace(A, photograph=photograph))
    with pytest.raises(Problem, match="1 photographs"):
        checked(tmp_path, ["A"])


def test_overlap_is_allowed_on_request_and_the_report_states_it(tmp_path: Path) -> None:
    write(tmp_path, A=A, copy=A)
    faces, report = checked(tmp_path, ["A", "copy"], "allow")
    assert (faces.fold[70:] == faces.fold[:70]).all()
    warnings = exclusiveness_warnings(report)
    assert warnings[0].startswith("In several folds or under several subjects are 70 image files")
    sentences = exclusiveness({"experiment": {"exclusiveness": report, "warnings": warnings}})
    assert warnings[0] in sentences


def test_merged_copies_are_one_subject_in_one_fold_in_every_job(tmp_path: Path) -> None:
    write(tmp_path, A=A, copy=shuffled_folds(A))
    labels, report = checked(tmp_path, ["A", "copy"], "merge")
    assert report["moved"] > 0
    assert (labels.fold[70:] == labels.fold[:70]).all()
    assert (labels.subject[70:] == labels.subject[:70]).all()
    assert check_finds_nothing(labels)
    experiment = made_experiment([0], TrainingOptions()).model_copy(
        update={"datasets": ["A", "copy"], "overlap": "merge"}
    )
    save_experiment(tmp_path, experiment)
    path = merged_subjects(tmp_path, experiment)
    assert path is not None and path.name == MERGED
    write_merged(path, labels)
    faces = load_faces(tmp_path, ["A", "copy"], SPACE, "images", path)
    assert (faces.fold == labels.fold).all() and (faces.subject == labels.subject).all()
    write(tmp_path, copy=A.rows(np.arange(60)))
    with pytest.raises(Problem, match="extracted again"):
        load_faces(tmp_path, ["A", "copy"], SPACE, "images", path)


def check_finds_nothing(labels: FaceLabels) -> bool:
    return check(labels, {"all": labels}).found == {}


def test_data_sets_of_earlier_releases_load_and_are_named_as_not_checked(tmp_path: Path) -> None:
    write(tmp_path, old=B, A=A)
    path = tmp_path / "old" / SPACE.id / "data-images.npz"
    arrays = read_npz(path)
    for name in ("file_sha256", "image_hash", "photograph"):
        del arrays[name]
    write_npz(path, arrays)
    assert not read_labels(tmp_path, "old", SPACE, "images").has_hashes
    _, report = checked(tmp_path, ["old", "A"])
    assert report["not_checked"] == ["old"]
    assert "`agegender regroup old`" in exclusiveness_warnings(report)[0]
    assert exclusiveness({"experiment": {"exclusiveness": None}})[0].startswith("Not checked")


def test_a_warm_start_from_networks_that_saw_the_faces_under_another_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path, A=A, renamed=replace(A, subject=np.full(70, "")), B=B)
    source = made_experiment([0], TrainingOptions()).model_copy(update={"id": "pre", "datasets": ["A"]})
    save_experiment(tmp_path, source)
    sets = {"renamed": read_labels(tmp_path, "renamed", SPACE, "images")}
    with pytest.raises(Problem, match=r"trained on 70 of these faces, such as renamed/00000\.jpg") as caught:
        require_unseen(tmp_path, "pre", sets, "merge")
    assert caught.value.extra["errors"][0]["field"] == "warm_start"
    assert "too optimistic" in require_unseen(tmp_path, "pre", sets, "allow")[0]
    assert require_unseen(tmp_path, "pre", {"B": read_labels(tmp_path, "B", SPACE, "images")}, "refuse") == []


def test_shared_faces_count_those_of_the_second() -> None:
    again = replace(A.rows(np.arange(7)), subject=np.full(7, ""))
    assert shared_faces({"A": A}, {"B": B}) == (0, [])
    count, examples = shared_faces({"A": A}, {"x": again})
    assert count == 7 and examples[0] == "x/00000.jpg"


@settings(deadline=None, max_examples=60)
@given(
    copied=st.lists(st.tuples(st.integers(0, 69), st.integers(0, 49)), max_size=20),
    named=st.lists(st.tuples(st.integers(0, 69), st.integers(0, 49)), max_size=20),
    folds=st.integers(2, 5),
)
def test_after_a_merge_folds_share_no_photograph_and_no_subject(
    copied: list[tuple[int, int]], named: list[tuple[int, int]], folds: int
) -> None:
    image_hash, subject = B.image_hash.copy(), B.subject.astype("U20")
    for first, second in copied:
        image_hash[second] = A.image_hash[first]
    for first, second in named:
        subject[second] = A.subject[first]
    sets: dict[str, FaceLabels] = {
        "A": A,
        "B": replace(B, image_hash=image_hash, subject=subject, fold=(B.fold % folds).astype(np.int16)),
    }
    faces = as_one(sets)
    result = check(faces, sets)
    try:
        require_exclusive(result)
        assert not copied and not set(subject.tolist()) & set(A.subject.tolist())
    except Problem:
        assert result.found
    new_subject, fold = merged(faces, result.group)
    for first, second in ((first, second + 70) for first, second in copied):
        if (image_hash[second - 70] != A.image_hash[first]).any():  # a later copy took its place
            continue
        rows = np.array([second])
        assert set(fold[rows].tolist()) == {int(fold[first])}
        assert set(new_subject[rows].tolist()) == {str(new_subject[first])}
    for name in set(new_subject.tolist()):
        assert len(set(fold[new_subject == name].tolist())) == 1
