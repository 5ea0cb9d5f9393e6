"""Records that release 0.1.0 wrote, as its own code wrote them, still load, and their runs continue."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from agegender.files import read_json, write_json
from structlog.testing import capture_logs
from trainer.experiments.experiment import save_experiment
from trainer.jobs import EXPERIMENTS, EXTRACTIONS, KINDS, SEARCHES
from trainer.runs.run import Run, each, statuses, unreadable_names, unreadable_records

RECORDS = Path(__file__).with_name("records_0_1_0")
ENSEMBLE, SOURCE = "20261120-100000-aaaaaa", "20261118-100000-cccccc"
SEARCH = "search-20261119-100000-bbbbbb"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDS, tmp_path / "data"))


def loaded(run: Run) -> Run:
    return run


def test_every_record_is_read_as_format_1(data_dir: Path) -> None:
    counts = {kind.path: len(list(each(kind, data_dir, loaded))) for kind in KINDS}
    assert counts == {"experiments": 2, "searches": 1, "extractions": 3, "evaluations": 0, "videos": 0}
    for kind in KINDS:
        assert unreadable_names(kind, data_dir) == []
        assert {run.format for run in each(kind, data_dir, loaded)} <= {1}


def test_experiment_keeps_what_its_record_has_under_present_names(data_dir: Path) -> None:
    experiment = EXPERIMENTS.load(data_dir, ENSEMBLE)
    assert (experiment.warm_start, experiment.image_set, experiment.refit) == (SOURCE, "aligned", True)
    # The former names are written too, for one release.
    save_experiment(data_dir, experiment)
    written = read_json(data_dir / "experiments" / ENSEMBLE / "experiment.json")
    assert (written["start_from"], written["variant"], written["format"]) == (SOURCE, "aligned", 1)
    assert EXPERIMENTS.load(data_dir, ENSEMBLE) == experiment
    running, cancelled = statuses(EXPERIMENTS, data_dir)
    assert (running.state, cancelled.state) == ("running", "cancelled")
    first, second = running.folds
    assert (first.state, first.epoch, first.attempts) == ("running", 2, 1)
    assert (second.state, second.problem) == ("failed", "RuntimeError: out of memory")
    steps = [step.job_id for step in EXPERIMENTS.steps(data_dir, experiment)]
    assert steps == [f"{ENSEMBLE}-fold-0"]
    experiment = EXPERIMENTS.change(data_dir, ENSEMBLE, partial(EXPERIMENTS.resumed, data_dir))
    steps = [step.job_id for step in EXPERIMENTS.steps(data_dir, experiment)]
    assert steps == [f"{ENSEMBLE}-fold-0", f"{ENSEMBLE}-fold-1"]


def test_search_continues_with_its_missing_trial(data_dir: Path) -> None:
    search = SEARCHES.load(data_dir, SEARCH)
    assert search.inner_folds == 3
    assert search.model_dump()["parts"] == 3  # which 0.1.0 reads
    status = SEARCHES.status(data_dir, search)
    assert [trial.state for trial in status.trials] == ["finished", "queued"]
    assert status.best is not None and status.best.experiment["image_set"] == "aligned"
    assert [step.job_id for step in SEARCHES.steps(data_dir, search)] == [f"{SEARCH}-trial-1"]


def test_extractions_keep_their_state_and_the_running_one_continues(data_dir: Path) -> None:
    found = {status.name: status for status in statuses(EXTRACTIONS, data_dir)}
    finished = found["Adience/human-2/aligned"]
    assert (finished.state, finished.format, finished.image_set) == ("finished", "adience", "aligned")
    assert (finished.kind, finished.variant) == ("adience", "aligned")
    assert finished.progress.done == 17_055
    failed = found["UTKFace/human-2/images"]
    assert failed.problem is not None and failed.problem["status"] == 503
    resumed = EXTRACTIONS.change(data_dir, failed.name, partial(EXTRACTIONS.resumed, data_dir))
    assert (resumed.state, resumed.attempt, resumed.problem) == ("planning", 2, None)
    running = EXTRACTIONS.load(data_dir, "Adience/human-2/faces")
    steps = [step.job_id.rpartition("-")[2] for step in EXTRACTIONS.steps(data_dir, running)]
    assert steps == ["0", "1"]
    assert running.created == running.changed_at  # the only time that it has


def test_record_of_a_later_format_is_reported_and_hides_no_other(data_dir: Path) -> None:
    path = data_dir / "experiments" / SOURCE / "experiment.json"
    write_json(path, {**read_json(path), "format": 2})
    assert [status.id for status in statuses(EXPERIMENTS, data_dir)] == [ENSEMBLE]
    assert unreadable_names(EXPERIMENTS, data_dir) == [SOURCE]
    assert unreadable_names(EXPERIMENTS, data_dir, [ENSEMBLE]) == []
    (reason,) = unreadable_records(data_dir)
    assert "a later release wrote it (format 2; this release reads format 1)" in reason


def test_unreadable_record_is_logged_once_with_a_reason_that_stays_the_same(data_dir: Path) -> None:
    (data_dir / "experiments" / "folder" / "experiment.json").mkdir(parents=True)
    write_json(data_dir / "experiments" / "list" / "experiment.json", [])
    with capture_logs() as logs:
        for _ in range(3):
            with Path(os.devnull).open():  # the next file gets another number
                statuses(EXPERIMENTS, data_dir)
            statuses(EXPERIMENTS, data_dir)
    reasons = {log["name"]: log["reason"] for log in logs}
    assert len(logs) == 2
    assert "IsADirectoryError: Is a directory." in reasons["folder"]
    assert "cannot be read: record: Input should be" in reasons["list"]
