"""A record that this release cannot read is reported, and stops neither the scheduler nor the lists."""

import json
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from agegender.errors import Problem
from agegender.files import write_json
from trainer.app import create_trainer
from trainer.experiments.experiment import load_experiment, save_experiment
from trainer.jobs import EXPERIMENTS
from trainer.runs.run import statuses
from trainer.runs.scheduler import job_queue
from trainer.searches.search import Search, save_search
from trainer.settings import TrainerSettings
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.made_faces import SPACE
from tests.support.redis_server import redis_server
from tests.support.serving import serving, until

# As release 0.1.0 wrote it.
OF_0_1_0 = {
    "id": "old",
    "created": "2026-11-20T10:00:00Z",
    "datasets": ["made"],
    "variant": "images",
    "space": {"id": SPACE.id, "dimension": SPACE.dimension},
    "folds": [0, 1],
    "options": {
        "task": "age-gender",
        "classes": "years",
        "seeds": 3,
        "seed": 0,
        "validation": 0.1,
        "head": {"dropout": 0.2, "kind": "mlp", "hidden": [256], "activation": "silu", "norm": True},
        "optimizer": {"epochs": 40, "batch_size": 256, "learning_rate": 0.001},
    },
    "preset": "default",
    "chosen_by": None,
    "start_from": None,
    "refit": False,
    "promote": False,
    "cancelled": False,
}


def made_search(name: str) -> Search:
    return Search.model_validate(
        {
            **made_experiment([0, 1], TrainingOptions(), name=name).model_dump(),
            "created": datetime.now(UTC),
            "held_out": [1],
            "parameters": {},
            "trials": 2,
            "goal": "nll",
            "inner_folds": 2,
            "pruning": True,
        }
    )


def spoil(path: Path, **changes: object) -> None:
    record = json.loads(path.read_text())
    write_json(path, {**record, **changes})


def made_records(data_dir: Path) -> None:
    """Write a valid record and three unreadable ones, both of experiments and of searches."""
    names = ("good", "later", "option", "cut")
    for name in names:
        save_experiment(data_dir, made_experiment([0, 1], TrainingOptions(), name=name))
        save_search(data_dir, made_search(f"search-{name}"))
    for folder, prefix, file in (("experiments", "", "experiment"), ("searches", "search-", "search")):
        paths = {name: data_dir / folder / f"{prefix}{name}" / f"{file}.json" for name in names}
        spoil(paths["later"], format=2)
        spoil(paths["option"], options={"optimizer": {"pace": 3}})
        paths["cut"].write_bytes(paths["cut"].read_bytes()[:100])


def test_unreadable_record_stops_neither_scheduler_nor_list_and_is_reported(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    made_records(data_dir)
    with redis_server(tmp_path) as server:
        settings = TrainerSettings(data_dir=data_dir, redis_url=server.url, reconcile_seconds=0.2)
        queue = job_queue(server.client)
        with serving(create_trainer(settings)) as url:
            due = {"good-fold-0", "good-fold-1", "search-good-trial-0", "search-good-trial-1"}
            until(lambda: set(queue.get_job_ids()) == due, "the good ones are enqueued", 30)
            for path, good in (("experiments", "good"), ("searches", "search-good")):
                listed = httpx.get(f"{url}/{path}")
                assert listed.status_code == 200
                assert [one["id"] for one in listed.json()] == [good]
            warnings = " ".join(httpx.get(f"{url}/health/ready").json()["warnings"])
            for name, reason in (("later", "format"), ("option", "pace"), ("cut", "JSONDecodeError")):
                for one in (f"experiments/{name}", f"searches/search-{name}"):
                    answer = httpx.get(f"{url}/{one}")
                    assert answer.status_code == 409 and answer.json()["type"].endswith(":unreadable-record")
                    assert reason in answer.json()["detail"] and one in answer.json()["detail"]
                    assert answer.json()["detail"] in warnings
                    # What cannot be read is not deleted either.
                    assert httpx.delete(f"{url}/{one}").status_code == 409
                    assert (data_dir / one).is_dir()
            shutil.rmtree(data_dir / "experiments" / "cut")
            warnings = " ".join(httpx.get(f"{url}/health/ready").json()["warnings"])
            assert "experiments/cut" not in warnings and "experiments/later" in warnings


def test_list_and_scheduler_tolerate_a_record_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            save_experiment(tmp_path, made_experiment([0], TrainingOptions(), name="fleeting"))
            shutil.rmtree(tmp_path / "experiments" / "fleeting")

    save_experiment(tmp_path, made_experiment([0], TrainingOptions(), name="stays"))
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(200):
            assert "stays" in [status.id for status in statuses(EXPERIMENTS, tmp_path)]
    finally:
        stop.set()
        thread.join()


def test_record_of_release_0_1_0_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "experiments" / "old" / "experiment.json", OF_0_1_0)
    experiment = load_experiment(tmp_path, "old")
    assert experiment.format == 1 and experiment.options.seeds == 3
    with pytest.raises(Problem, match="no experiment named 'new'"):
        load_experiment(tmp_path, "new")
