"""Back up a trainer at work, lose its data and its Redis, restore elsewhere: everything continues."""

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from agegender.heads.head import Task, heads_directory, load_head, read_current

from tests.support.documented import documented_commands
from tests.support.made_faces import SPACE
from tests.support.redis_server import redis_server
from tests.support.serving import free_port
from tests.support.trainer_processes import ONE_FOLD, REQUEST, Trainer


def documented(start: str) -> str:
    (text,) = [one.text for one in documented_commands() if one.text.startswith(start)]
    return text


def run(command: str, folder: Path) -> None:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def report(trainer: Trainer, experiment: str) -> Any:
    return trainer.http.get(f"/experiments/{experiment}/report?format=json").json()


@pytest.mark.parametrize("with_redis", [False, True])
def test_backup_of_a_trainer_at_work_is_restored_elsewhere(
    tmp_path: Path, life: ExitStack, undisturbed: dict[str, Any], with_redis: bool
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    with ExitStack() as old:
        server = old.enter_context(redis_server(here, "--appendonly", "yes", "--appendfsync", "always"))
        trainer = Trainer(here, server.url, free_port())
        old.callback(trainer.stop)
        trainer.start_api()
        trainer.start_worker()
        finished = trainer.create(REQUEST)
        trainer.wait(finished)
        promoted = trainer.http.post(f"/experiments/{finished}/promote?refit=false&force=true").json()
        expected = report(trainer, finished)
        running, waiting = trainer.create(ONE_FOLD), trainer.create(ONE_FOLD)
        trainer.wait_for_epoch(running, 5)
        (job,) = trainer.jobs()
        job.suspend()  # so that the fold does not end before the backup, however slow the disk is
        run(documented("tar -czf backup.tar.gz"), here)
        job.resume()
        assert trainer.status(running)["state"] == "running"
        if with_redis:
            shutil.copy(here / "appendonly.aof", elsewhere)
    shutil.move(here / "backup.tar.gz", elsewhere)
    shutil.rmtree(here)

    run(documented("mkdir -p data && tar -xzf backup.tar.gz"), elsewhere)
    restored = life.enter_context(redis_server(elsewhere, "--appendonly", "yes"))
    assert bool(restored.client.keys("rq:job:*")) is with_redis
    made = sorted(elsewhere.glob("data/made/*/*"))
    kept = {path: path.read_bytes() for path in made}
    trainer = Trainer(elsewhere, restored.url, free_port())
    for path, content in kept.items():  # `Trainer` makes its data set, and here the restored one counts
        path.write_bytes(content)
    life.callback(trainer.stop)
    trainer.start_api()
    trainer.start_worker()
    assert report(trainer, finished) == expected
    for task in Task:
        heads = heads_directory(elsewhere / "data" / "models", task, SPACE)
        current = read_current(heads)
        assert current is not None and current.version == promoted[task.value]
        load_head(heads / current.version)
    for experiment in (running, waiting):
        trainer.wait(experiment)
        assert trainer.figures(experiment) == undisturbed
    assert trainer.attempts(running) == 2
    assert trainer.attempts(waiting) == 1
    again = trainer.create(REQUEST)
    trainer.wait(again)
    assert trainer.figures(again)["tables"] == {name: expected["tables"][name] for name in expected["tables"]}
