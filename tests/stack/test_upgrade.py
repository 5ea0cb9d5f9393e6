"""Upgrade from release 0.1.0 with jobs in the queue, and go back to it: no accepted work is lost."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from trainer.jobs import EXTRACTIONS

from tests.support.redis_server import redis_server
from tests.support.serving import free_port
from tests.support.trainer_processes import ONE_FOLD, REQUEST, Trainer
from tools.stack import ROOT

RECORDS = ROOT / "tests" / "unit" / "records_0_1_0"
RELEASE_0_1_0 = "cf0d00a"  # the last commit before the changes that CHANGELOG.md lists after it


@pytest.fixture(scope="module")
def old_release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `python -m trainer` is that of release 0.1.0."""
    done = subprocess.run(
        ["git", "archive", RELEASE_0_1_0, "services/trainer", "services/predictor/heads", "shared"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("release 0.1.0 is not in this clone: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("release")
    # Not by `tarfile`, whose filters the Python 3.11.2 of Debian 12 lacks.
    subprocess.run(["tar", "-x", "-C", str(folder)], input=done.stdout, check=True)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "shared"), str(folder / "services" / "trainer")])}


def started(trainer: Trainer, release: dict[str, str] | None = None) -> None:
    """Start the API and a worker, of the present release or another one."""
    ours = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    trainer.environment.pop("PYTHONPATH", None)
    trainer.environment |= ours if release is None else release
    trainer.start_api(forked=release is None)
    if release:
        trainer.start("trainer.worker")
    else:
        trainer.start_worker()


READ = """
import sys, pathlib
from trainer.extraction.state import states_of
print(*(f"{one.variant} {one.kind} {one.state}" for one in states_of(pathlib.Path(sys.argv[1]) / "Adience")))
"""


def test_old_release_reads_the_records_of_extractions(tmp_path: Path, old_release: dict[str, str]) -> None:
    for name in ("Adience/human-2/aligned", "Adience/human-2/faces"):
        record = EXTRACTIONS.record_path(tmp_path, name)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text((RECORDS / record.relative_to(tmp_path)).read_text())
        EXTRACTIONS.save(tmp_path, EXTRACTIONS.load(tmp_path, name))
    command = [sys.executable, "-c", READ, str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, **old_release}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "aligned adience finished" in done.stdout and "faces adience extracting" in done.stdout


def test_upgrade_and_downgrade_with_jobs_in_the_queue(
    tmp_path: Path, life: ExitStack, old_release: dict[str, str]
) -> None:
    server = life.enter_context(redis_server(tmp_path))
    trainer = Trainer(tmp_path, server.url, free_port())
    life.callback(trainer.stop)
    started(trainer, old_release)
    finished = trainer.create(REQUEST)
    trainer.wait(finished)
    expected = trainer.http.get(f"/experiments/{finished}/report?format=json").json()
    running, waiting = trainer.create(ONE_FOLD), trainer.create(ONE_FOLD)
    trainer.wait_for_epoch(running, 5)
    trainer.stop()

    started(trainer)
    for experiment in (running, waiting):
        trainer.wait(experiment)
    assert trainer.http.get(f"/experiments/{finished}/report?format=json").json() == expected
    promotion = trainer.http.post(f"/experiments/{finished}/promote?refit=false&force=true")
    assert promotion.status_code == 200, promotion.text
    ours_running, ours_waiting = trainer.create(ONE_FOLD), trainer.create(ONE_FOLD)
    trainer.wait_for_epoch(ours_running, 5)
    trainer.stop()

    started(trainer, old_release)
    for experiment in (ours_running, ours_waiting):
        trainer.wait(experiment)
    states = {one["id"]: one["state"] for one in trainer.http.get("/experiments").json()}
    assert states == dict.fromkeys((finished, running, waiting, ours_running, ours_waiting), "finished")
    assert trainer.http.get(f"/experiments/{finished}/report?format=json").json() == expected
    assert [one["name"] for one in trainer.http.get("/datasets").json()] == ["made"]
