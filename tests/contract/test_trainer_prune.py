"""`POST /prune` deletes what is old and not in use; finished experiments keep only what is needed later."""

import os
import shutil
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from agegender.heads.head import Task, heads_directory, load_head, read_current
from agegender.spaces import Space
from safetensors.numpy import load_file
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment import BANK, experiment_dir, fold_dir, load_experiment, save_experiment
from trainer.experiments.fold import run_fold
from trainer.experiments.promote import promote
from trainer.experiments.warm_start import WEIGHTS
from trainer.runs.attempt import Attempt
from trainer.runs.run import DELETED, TRASH
from trainer.training.bank import prepare_device
from trainer.training.config import OptimizerOptions, TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.made_faces import SPACE, made_faces
from tests.support.made_heads import made_head
from tests.support.made_videos import quartered, write_video
from tests.support.trained_experiments import trained_experiment
from tools.stack import ROOT

DAY = 24 * 3600.0
NAMES = ("first", "second", "third", "fourth", "unused")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four experiments that were promoted one after the other, and one that was not, all 40 days old."""
    data_dir = tmp_path_factory.mktemp("trained")
    trained_experiment(data_dir, NAMES[0], "faces", made_faces(60, folds=3))
    for name in NAMES[1:]:
        shutil.copytree(experiment_dir(data_dir, NAMES[0]), experiment_dir(data_dir, name))
        save_experiment(data_dir, load_experiment(data_dir, NAMES[0]).model_copy(update={"id": name}))
    for age, name in zip((44, 43, 42, 41), NAMES[:4], strict=True):
        for version in promote(data_dir, load_experiment(data_dir, name)).values():
            for head in data_dir.glob(f"models/*/*/{version}"):
                grow_old(head, age)
    for path in (data_dir / "experiments").iterdir():
        grow_old(path, 40)
    return data_dir


def grow_old(folder: Path, days: float) -> None:
    moment = time.time() - days * DAY
    for path in folder.rglob("*"):
        os.utime(path, (moment, moment))


def prune(trainer: httpx.Client, days: int = 30, **options: str) -> tuple[set[str], set[str]]:
    """Return what was deleted, and what is old and was kept."""
    answer = trainer.post("/prune", params={"older_than_days": days, **options})
    assert answer.status_code == 200, answer.text
    found = answer.json()["found"]
    assert answer.json()["freed"] == sum(one["size"] for one in found if one["kept"] is None)
    return (
        {one["id"] for one in found if one["kept"] is None},
        {one["id"] for one in found if one["kept"] is not None},
    )


def head_ids(name: str) -> set[str]:
    return {f"{task.value}/{SPACE.id}/{name}-{task.value}" for task in Task}


def test_prune_keeps_the_served_heads_and_the_two_before_with_their_experiments(
    trainer: httpx.Client, data_dir: Path
) -> None:
    expected = {"first", "unused"} | head_ids("first")
    listed, kept = prune(trainer, dry_run="true")
    assert listed == expected
    assert kept == set(NAMES[1:4]).union(*map(head_ids, NAMES[1:4]))
    assert experiment_dir(data_dir, "unused").exists()
    assert prune(trainer) == (expected, kept)
    assert {path.name for path in (data_dir / "experiments").iterdir()} == set(NAMES[1:4])
    for task in Task:
        heads = heads_directory(data_dir / "models", task, SPACE)
        assert {path.name for path in heads.iterdir() if path.is_dir()} == {
            f"{name}-{task.value}" for name in NAMES[1:4]
        }
        current = read_current(heads)
        assert current is not None and current.previous is not None
        for version in (current.version, current.previous):
            load_head(heads / version)
    assert prune(trainer)[0] == set()
    assert (data_dir / "faces").is_dir()


def test_prune_keeps_what_is_new_or_running_or_needed(trainer: httpx.Client, data_dir: Path) -> None:
    assert prune(trainer, days=60, dry_run="true") == (set(), set())
    unused = load_experiment(data_dir, "unused")
    record = experiment_dir(data_dir, "unused")
    (record / "report.json").unlink()
    grow_old(record, 40)
    assert "unused" in prune(trainer, dry_run="true")[1]
    save_experiment(data_dir, unused.model_copy(update={"cancelled": True}))
    grow_old(record, 40)
    assert "unused" in prune(trainer, dry_run="true")[0]
    follower = load_experiment(data_dir, "fourth").model_copy(
        update={"id": "follower", "warm_start": "unused"}
    )
    save_experiment(data_dir, follower)
    assert "unused" in prune(trainer, dry_run="true")[1]


def test_prune_keeps_all_heads_of_a_space_whose_current_one_cannot_be_read(
    trainer: httpx.Client, data_dir: Path
) -> None:
    (heads_directory(data_dir / "models", Task.AGE, SPACE) / "current.json").write_text("{")
    deleted, kept = prune(trainer)
    assert f"age/{SPACE.id}/first-age" in kept and f"gender/{SPACE.id}/first-gender" in deleted
    assert "first" in kept


def test_prune_counts_heads_that_no_experiment_wrote(trainer: httpx.Client, data_dir: Path) -> None:
    other = Space(id="other-1", dimension=8)
    for number in range(5):
        grow_old(made_head(data_dir / "models", Task.AGE, other, f"v{number}"), 40 - number)
    deleted, kept = prune(trainer)
    assert {f"age/other-1/v{number}" for number in (0, 1)} <= deleted
    assert {f"age/other-1/v{number}" for number in (2, 3, 4)} <= kept


def test_deleted_experiment_is_restored_as_it_was_within_a_week(
    trainer: httpx.Client, data_dir: Path
) -> None:
    def content() -> dict[str, bytes]:
        folder = experiment_dir(data_dir, "unused")
        files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    before, status = content(), trainer.get("/experiments/unused").json()
    assert trainer.delete("/experiments/unused").json() == status
    assert not experiment_dir(data_dir, "unused").exists()
    assert "unused" not in {one["id"] for one in trainer.get("/experiments").json()}
    # A job that had not noticed the deletion writes once more.
    (fold_dir(data_dir, "unused", 0)).mkdir(parents=True)
    (fold_dir(data_dir, "unused", 0) / "progress.json").write_text("{}")
    for _ in range(2):
        assert trainer.post("/experiments/unused/restore").json() == status
        assert content() == before
    assert trainer.post("/experiments/none/restore").status_code == 404
    assert trainer.post("/experiments/..%2fx/restore").status_code == 404


def test_deletion_that_was_cut_off_between_its_two_steps_is_undone(
    trainer: httpx.Client, data_dir: Path
) -> None:
    record = experiment_dir(data_dir, "unused") / "experiment.json"
    record.rename(record.with_name(DELETED))
    assert trainer.get("/experiments/unused").status_code == 404
    assert trainer.post("/experiments/unused/restore").json()["state"] == "finished"


def test_prune_empties_the_trash_after_a_week_and_deletes_for_good(
    trainer: httpx.Client, data_dir: Path
) -> None:
    trainer.delete("/experiments/unused")
    trash = data_dir / TRASH / "experiments"
    assert prune(trainer, days=10_000) == (set(), {"experiments/unused"})
    grow_old(trash / "unused", 7.1)
    assert prune(trainer, days=10_000, dry_run="true")[0] == {"experiments/unused"}
    assert prune(trainer, days=10_000) == ({"experiments/unused"}, set())
    assert not list(trash.iterdir())
    assert "first" in prune(trainer)[0] and not list(trash.iterdir())
    assert trainer.post("/experiments/first/restore").status_code == 404


def test_prune_deletes_videos_that_are_over_with_their_uploads(
    trainer: httpx.Client, data_dir: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", [quartered()] * 3).read_bytes()
    folder = data_dir / "videos"
    folder.mkdir()
    (folder / "stored.mp4").write_bytes(clip)
    running, cancelled, new = (
        trainer.post("/videos", files={"file": ("my clip.mp4", clip)}).json()["id"] for _ in range(3)
    )
    named = trainer.post("/videos", params={"file": "stored.mp4"}).json()["id"]
    for video in (cancelled, new, named):
        assert trainer.post(f"/videos/{video}/cancel").json()["state"] == "cancelled"
    (folder / cancelled / "segments").mkdir()
    (folder / cancelled / "segments" / "0.json").write_text("{}")
    for video in (running, cancelled, named, "."):
        grow_old(folder / video, 40)
    grow_old(folder / new, 0)
    deleted, kept = prune(trainer, dry_run="true")
    assert {cancelled, named} <= deleted and running in kept and new not in deleted | kept
    assert (folder / cancelled / "source" / "my clip.mp4").read_bytes() == clip
    assert prune(trainer) == (deleted, kept)
    assert {path.name for path in folder.iterdir()} == {running, new, "stored.mp4"}
    assert trainer.get(f"/videos/{cancelled}").status_code == 404


@pytest.mark.parametrize("days", ["0", "-1", "soon"])
def test_prune_rejects_other_than_days(trainer: httpx.Client, days: str) -> None:
    assert trainer.post("/prune", params={"older_than_days": days}).status_code == 422
    assert trainer.post("/prune").status_code == 422


def test_default_experiment_occupies_what_the_docs_say(tmp_path: Path) -> None:
    """295 faces of the pack `human`, five folds, all options but the number of epochs as they come."""
    space = Space(id="human-2", dimension=2304)
    faces = made_faces(295, space=space)
    write_embedding_set(tmp_path, "made", "images", faces, {"kind": "made up"})
    options = TrainingOptions(optimizer=OptimizerOptions(epochs=1))
    experiment = made_experiment([0, 1, 2, 3, 4], options).model_copy(update={"space": space})
    save_experiment(tmp_path, experiment)
    for fold in experiment.folds:
        run_fold(
            tmp_path, experiment, faces, fold, Attempt(fold_dir(tmp_path, experiment.id, fold)),
            prepare_device("cpu", False, 1),
        )  # fmt: skip
    folder = experiment_dir(tmp_path, experiment.id)
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"{megabytes:.1f} MB")
    assert [path.parent.name for path in folder.rglob(WEIGHTS)] == ["0"]
    assert {value.dtype for value in load_file(fold_dir(tmp_path, experiment.id, 1) / BANK).values()} == {
        np.dtype(np.float16)
    }
    assert f"about {megabytes:.0f} MB" in (ROOT / "docs" / "training.md").read_text()
