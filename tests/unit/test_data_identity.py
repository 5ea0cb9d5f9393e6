"""An experiment keeps the faces that it was created with, or reports that they have changed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.heads.head import Task
from trainer.datasets.embedding_set import (
    EmbeddingSet,
    combine,
    data_path,
    embedding_bytes,
    stored_embedding_bytes,
    write_embedding_set,
)
from trainer.experiments.experiment import (
    FACES,
    MERGED,
    Experiment,
    experiment_dir,
    fold_dir,
    load_experiment,
    save_experiment,
)
from trainer.experiments.experiment_data import load_faces_of, read_out_of_fold, record_faces, write_merged
from trainer.experiments.predictions import out_of_fold_columns
from trainer.experiments.promote import built_heads
from trainer.experiments.served import compare_with_served, heads_named
from trainer.experiments.warm_start import require_unseen, require_unseen_by
from trainer.reports.report import summarise

from tests.support.made_experiment import made_experiment
from tests.support.made_faces import SPACE, made_faces
from tests.support.made_heads import promoted_heads
from tests.support.trained_experiments import OPTIONS, created, trained_experiment

FOLDS = 3
FACES_OF_MADE = made_faces(120, folds=FOLDS)
QUICK = OPTIONS.model_copy(update={"optimizer": OPTIONS.optimizer.model_copy(update={"epochs": 1})})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("trained")
    trained_experiment(data_dir, "exp", "made", FACES_OF_MADE, QUICK)
    promoted_heads(data_dir / "models", SPACE, "by-hand")
    return data_dir


@pytest.fixture
def data_dir(trained: Path) -> Path:
    write(trained, FACES_OF_MADE)
    return trained


def write(data_dir: Path, faces: EmbeddingSet, dataset: str = "made") -> None:
    write_embedding_set(data_dir, dataset, "images", faces, {"kind": "made up"})


def with_first(faces: EmbeddingSet) -> EmbeddingSet:
    """Return the faces after one more, whose name sorts first."""
    more = made_faces(1, seed=7, folds=FOLDS)
    more = replace(more, file=np.array(["00000-new.jpg"]), subject=np.array(["new"]))
    columns = ("file", "embedding", "age_low", "age_high", "gender", "subject", "fold", "embedding_mirrored")
    joined = {name: np.concatenate([getattr(more, name), getattr(faces, name)]) for name in columns}
    return EmbeddingSet(space=faces.space, **joined)


def heads(data_dir: Path, experiment: Experiment) -> dict[Task, Any]:
    return {
        head.manifest.task: (head.manifest.temperature, head.manifest.conformal, head.manifest.card["data"])
        for head in built_heads(data_dir, experiment)
    }


@pytest.mark.parametrize(
    "change",
    [with_first, lambda faces: faces.rows(np.arange(len(faces))[::-1]), lambda faces: faces],
    ids=["one-more", "other-order", "same"],
)
def test_faces_that_were_added_or_moved_do_not_change_the_heads(
    data_dir: Path, change: Callable[[EmbeddingSet], EmbeddingSet]
) -> None:
    experiment = load_experiment(data_dir, "exp")
    before, columns = heads(data_dir, experiment), out_of_fold_columns(data_dir, experiment)
    write(data_dir, change(FACES_OF_MADE))
    assert heads(data_dir, experiment) == before
    assert out_of_fold_columns(data_dir, experiment) == columns


CHANGES: dict[str, Callable[[EmbeddingSet], EmbeddingSet]] = {
    "absent": lambda faces: faces.rows(np.arange(1, len(faces))),
    "renamed": lambda faces: replace(faces, file=np.char.add("a-", faces.file)),
    "age": lambda faces: replace(faces, age_low=faces.age_low + 1, age_high=faces.age_high + 1),
    "gender": lambda faces: replace(faces, gender=np.asarray(1 - faces.gender, np.int8)),
    "subject": lambda faces: replace(faces, subject=faces.file),
    "fold": lambda faces: replace(faces, fold=np.asarray((faces.fold + 1) % FOLDS, np.int16)),
    "embedding": lambda faces: replace(faces, embedding=faces.embedding[::-1]),
    "mirrored": lambda faces: replace(faces, embedding_mirrored=faces.embedding_mirrored[:0]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_faces_that_were_changed_are_reported_wherever_an_experiment_reads_them(
    data_dir: Path, change: str
) -> None:
    experiment = load_experiment(data_dir, "exp")
    write(data_dir, CHANGES[change](FACES_OF_MADE))
    readers: list[Callable[[], Any]] = [
        lambda: load_faces_of(data_dir, experiment),
        lambda: list(built_heads(data_dir, experiment)),
        lambda: heads_named(data_dir, data_dir / "none", "exp", SPACE),
        lambda: compare_with_served(data_dir, data_dir / "none", experiment),
        lambda: summarise(data_dir, experiment),
        lambda: out_of_fold_columns(data_dir, experiment),
    ]
    for read in readers:
        with pytest.raises(Problem, match=r"because made was extracted or grouped again\. Restore") as found:
            read()
        assert (found.value.slug, found.value.status) == ("bad-dataset", 409)


@pytest.mark.parametrize("change", ["one-more", "fold", "absent"])
def test_experiment_of_an_earlier_release_is_checked_by_the_faces_of_its_folds(
    data_dir: Path, change: str
) -> None:
    old = load_experiment(data_dir, "exp").model_copy(update={"data_sha256": None, "id": "exp"})
    assert heads(data_dir, old)
    write(data_dir, {**CHANGES, "one-more": with_first}[change](FACES_OF_MADE))
    assert len(load_faces_of(data_dir, old)) in (119, 120, 121)
    if change == "fold":  # its faces are those of other folds, which nothing recorded
        old = old.model_copy(update={"folds": [0]})
        write(data_dir, replace(FACES_OF_MADE, fold=np.roll(FACES_OF_MADE.fold, 1)))
    with pytest.raises(Problem, match="not those that were tested") as found:
        read_out_of_fold(data_dir, old, [fold_dir(data_dir, "exp", fold) for fold in range(FOLDS)])
    assert found.value.slug == "bad-dataset"


@pytest.mark.parametrize("changes", [{"overlap": "merge"}, {"k": 4}], ids=["merged", "k"])
def test_merged_faces_are_found_by_name_if_others_were_added(tmp_path: Path, changes: dict[str, Any]) -> None:
    experiment = made_experiment([0], QUICK).model_copy(update=changes)
    labels = replace(FACES_OF_MADE, fold=np.roll(FACES_OF_MADE.fold, 2))
    write(tmp_path, FACES_OF_MADE)
    write_merged(experiment_dir(tmp_path, experiment.id) / MERGED, labels)
    experiment = created(tmp_path, experiment, labels)
    first = load_faces_of(tmp_path, experiment)
    write(tmp_path, with_first(CHANGES["subject"](FACES_OF_MADE)))  # its own subjects and folds are stored
    again = load_faces_of(tmp_path, experiment)
    for name in ("file", "fold", "subject", "age_low", "embedding"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert np.array_equal(again.fold, labels.fold)
    write(tmp_path, with_first(CHANGES["embedding"](FACES_OF_MADE)))
    with pytest.raises(Problem, match="120 of 120 faces"):
        load_faces_of(tmp_path, experiment)


def test_damaged_record_of_the_faces_is_reported(data_dir: Path, tmp_path: Path) -> None:
    write(tmp_path, FACES_OF_MADE)
    experiment = created(tmp_path, made_experiment([0], QUICK), FACES_OF_MADE)
    path = experiment_dir(tmp_path, experiment.id) / FACES
    assert path.stat().st_size < 16 * len(FACES_OF_MADE) + 1000
    write(tmp_path, FACES_OF_MADE.rows(np.arange(len(FACES_OF_MADE))[::-1]))
    assert load_faces_of(tmp_path, experiment).file.tolist() == FACES_OF_MADE.file.tolist()
    for damage in (lambda: path.write_bytes(b"no"), path.unlink):
        damage()
        with pytest.raises(Problem, match=r"faces\.npz") as found:
            load_faces_of(tmp_path, experiment)
        assert found.value.slug == "bad-dataset"


@pytest.mark.parametrize("by_column", [False, True])
def test_embeddings_are_digested_from_the_file_as_from_memory(tmp_path: Path, by_column: bool) -> None:
    one, other = made_faces(20), made_faces(30, seed=1)
    if by_column:
        one = replace(one, embedding=np.asfortranarray(one.embedding))
    once = replace(other, embedding_mirrored=other.embedding_mirrored[:0])
    for sets in ({"one": one}, {"once": once}, {"one": one, "two": other}, {"one": one, "once": once}):
        for name, faces in sets.items():
            write(tmp_path, faces, name)
        paths = [data_path(tmp_path, name, SPACE, "images") for name in sets]
        assert list(stored_embedding_bytes(paths)) == list(embedding_bytes(combine(sets)))


def test_data_that_is_replaced_while_an_experiment_is_created_is_reported(tmp_path: Path) -> None:
    write(tmp_path, FACES_OF_MADE.rows(np.arange(50)))
    with pytest.raises(Problem, match="repeat the request"):
        record_faces(tmp_path / FACES, tmp_path, ["made"], SPACE, "images", FACES_OF_MADE)


def test_warm_start_and_evaluation_state_that_the_faces_of_the_source_have_changed(data_dir: Path) -> None:
    experiment = load_experiment(data_dir, "exp")
    save_experiment(data_dir, experiment)
    hashed = replace(
        FACES_OF_MADE,
        file_sha256=np.random.default_rng(0).integers(0, 256, (120, 32), np.uint8),
        image_hash=np.random.default_rng(1).integers(0, 256, (120, 64), np.uint8),
    )
    other = replace(
        made_faces(40, seed=5),
        subject=np.array([f"other {number // 2}" for number in range(40)]),
        file_sha256=np.random.default_rng(2).integers(0, 256, (40, 32), np.uint8),
        image_hash=np.random.default_rng(3).integers(0, 256, (40, 64), np.uint8),
    )
    made = list(built_heads(data_dir, experiment))
    write(data_dir, hashed)
    expected = "made was extracted or grouped again after"
    (warning,) = require_unseen(data_dir, "exp", {"other": other}, "refuse")
    assert warning.startswith(expected)
    warnings = require_unseen_by(data_dir, made, "other", "0", other)
    assert [one.startswith(expected) for one in warnings] == [True] * len(made)
