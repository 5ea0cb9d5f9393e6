"""Training on all faces over the queue: at once or later, killed, given up; and what is served then."""

from pathlib import Path
from typing import Any

import httpx
from agegender.heads.head import HeadManifest, Task, heads_directory, load_head, read_current
from trainer.experiments.experiment import BANK, refit_dir

from tests.support.made_faces import SPACE
from tests.support.serving import until
from tests.support.trainer_processes import REQUEST, Trainer, running_trainer

# Half of the faces validate, so all of them teach more; and so slowly that the last epochs are the best.
SLOW = {
    **REQUEST,
    "folds": [0, 1],
    "validation": 0.5,
    "optimizer": {"epochs": 80, "patience": 80, "batch_size": 16, "learning_rate": 2e-4},
}


def wait_for_refit(trainer: Trainer, experiment: str, row: int, epoch: int) -> None:
    until(lambda: trainer.status(experiment)["refits"][row]["epoch"] >= epoch, "it is refitted", 240, 0.02)


def promoted(trainer: Trainer, experiment: str, *, refit: bool) -> dict[Task, HeadManifest]:
    url = f"{trainer.url}/experiments/{experiment}/promote"
    answer = httpx.post(url, params={"refit": refit}, timeout=60)
    assert answer.status_code == 200, answer.text
    served = {}
    for task in Task:
        directory = heads_directory(trainer.data_dir / "models", task, SPACE)
        current = read_current(directory)
        assert current is not None and current.version == answer.json()[task.value]
        served[task] = load_head(directory / current.version).manifest
    return served


def served_versions(trainer: Trainer) -> set[str]:
    directories = [heads_directory(trainer.data_dir / "models", task, SPACE) for task in Task]
    served = [read_current(directory) for directory in directories]
    assert all(one is not None and one.previous is None for one in served)  # nothing else was served before
    return {one.version for one in served if one is not None}


def test_promotion_serves_at_once_and_then_what_is_better_though_workers_are_killed(
    tmp_path: Path,
) -> None:
    with running_trainer(tmp_path) as trainer:
        worker = trainer.start_worker()
        undisturbed = trainer.create({**SLOW, "refit": True})
        assert [refit["fold"] for refit in trainer.wait(undisturbed)["refits"]] == [0, 1, None]

        experiment = trainer.create(SLOW)
        assert trainer.wait(experiment)["refits"] == []
        assert "served" not in trainer.figures(experiment)
        for manifest in promoted(trainer, experiment, refit=True).values():
            assert manifest.members == 4 and "served" not in manifest.card
        assert served_versions(trainer) == {f"{experiment}-age", f"{experiment}-gender"}
        assert trainer.status(experiment)["state"] == "running"
        for row in (0, 2):  # a fold's, and the last: on all faces
            wait_for_refit(trainer, experiment, row, 10)
            trainer.kill(worker)
            worker = trainer.start_worker()
        status = trainer.wait(experiment)
        assert [refit["attempts"] for refit in status["refits"]] == [2, 1, 2]

        figures = trainer.figures(experiment)
        assert figures == trainer.figures(undisturbed)
        assert figures["served"]["chosen"] == "all"
        banks = [
            (refit_dir(trainer.data_dir, one, None) / BANK).read_bytes() for one in (experiment, undisturbed)
        ]
        assert banks[0] == banks[1]
        better = {f"{experiment}-all-age", f"{experiment}-all-gender"}
        until(lambda: served_versions(trainer) == better, "the better heads are served", 60)
        until(
            lambda: set(trainer.status(experiment)["promoted"].values()) == better,
            "its record names them",
            10,
        )
        for task, manifest in promoted(trainer, experiment, refit=True).items():
            assert manifest.members == 4
            assert manifest.card["served"]["nll"] == figures["served"]["nll"]
            refitted: dict[str, Any] = figures["served"]["out_of_fold"][task.value]
            assert manifest.card["metrics"]["nll"] == refitted["nll"]


def test_refits_given_up_leave_the_experiment_as_it_was(trainer: Trainer) -> None:
    trainer.start_worker()
    experiment = trainer.create(SLOW)
    trainer.wait(experiment)
    figures = trainer.figures(experiment)
    httpx.post(f"{trainer.url}/experiments/{experiment}/refit")
    wait_for_refit(trainer, experiment, 0, 5)
    stopped = httpx.post(f"{trainer.url}/experiments/{experiment}/cancel").json()
    assert (stopped["state"], stopped["refits"]) == ("finished", [])
    assert trainer.figures(experiment) == figures
    for manifest in promoted(trainer, experiment, refit=False).values():
        assert manifest.members == 4 and "served" not in manifest.card
    after = httpx.post(f"{trainer.url}/experiments/{experiment}/refit").json()["refits"][0]
    assert after["state"] == "running" and after["epoch"] >= 5  # it resumes from there
    trainer.wait(experiment)
    assert trainer.figures(experiment)["served"]["nll"]["folds"] > 0
