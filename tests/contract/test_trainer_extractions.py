"""Attempts of an extraction: what is enqueued, what both routes report, and what a request may replace."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.errors import Problem
from rq.job import Job, JobStatus
from trainer import jobs
from trainer.app import create_trainer
from trainer.datasets.formats import tables
from trainer.extraction.extraction import (
    Extraction,
    current_attempt,
    load_extraction,
    mark_shard_done,
    save_extraction,
    shard_dir,
)
from trainer.extraction.plan import write_plan
from trainer.jobs import EXTRACTIONS
from trainer.routes.datasets import start
from trainer.runs.attempt import MAX_ATTEMPTS, Attempt
from trainer.runs.run import record_lock
from trainer.runs.scheduler import JobQueue, job_queue, schedule, schedule_all
from trainer.settings import TrainerSettings

from tests.support.made_extraction import EXTRACTION
from tests.support.redis_server import redis_server
from tests.support.serving import serving, until

NAME = EXTRACTION.name


@pytest.fixture(scope="module")
def server_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobQueue]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield job_queue(server.client)


@pytest.fixture
def queue(server_queue: JobQueue) -> JobQueue:
    server_queue.connection.flushdb()
    return server_queue


def settings_of(queue: JobQueue, data_dir: Path, **options: Any) -> TrainerSettings:
    url = f"redis://127.0.0.1:{queue.connection.connection_pool.connection_kwargs['port']}/0"
    return TrainerSettings(data_dir=data_dir, redis_url=url, **options)


def made_dataset(data_dir: Path) -> None:
    (data_dir / "faces" / "images").mkdir(parents=True)
    (data_dir / "faces" / "labels.csv").write_text("file,age,gender\n")


def running(data_dir: Path, **changes: Any) -> Extraction:
    made_dataset(data_dir)
    return save_extraction(data_dir, EXTRACTION, run="here", **changes)


def test_steps_are_enqueued_by_the_files_that_exist(queue: JobQueue, tmp_path: Path) -> None:
    extraction = running(tmp_path)

    def enqueued() -> list[str]:
        queue.connection.flushdb()  # it lost its data
        schedule(EXTRACTIONS, tmp_path, queue, load_extraction(tmp_path, NAME))
        return [name.removeprefix(f"extract-{extraction.id}-1-here-") for name in queue.get_job_ids()]

    assert enqueued() == ["plan"]
    save_extraction(tmp_path, extraction, state="extracting", shards=3)
    assert enqueued() == ["shard-0", "shard-1", "shard-2"]
    mark_shard_done(tmp_path, extraction, 1, 32)
    assert enqueued() == ["shard-0", "shard-2"]
    for shard in (0, 2):
        mark_shard_done(tmp_path, extraction, shard, 32)
    assert enqueued() == ["merge"]
    for state in ("finished", "failed", "cancelled"):
        save_extraction(tmp_path, extraction, state=state, shards=3)
        assert enqueued() == []


def test_extraction_is_planned_though_redis_holds_jobs_of_the_same_name_on_another_volume(
    queue: JobQueue, tmp_path: Path
) -> None:
    started = []
    for volume in ("old", "new"):
        settings = TrainerSettings(data_dir=tmp_path / volume)
        status = start(settings, queue.connection, EXTRACTION)
        assert status.state == "planning" and status.attempt == 1
        started.append(load_extraction(settings.data_dir, NAME))
    old, new = started
    assert {old.job_id("plan"), new.job_id("plan")} == set(queue.get_job_ids())
    # A job of the old volume that a worker of the new one takes does nothing there.
    plan = Job.fetch(old.job_id("plan"), connection=queue.connection, serializer=queue.serializer)
    assert current_attempt(tmp_path / "new", *plan.args) is None
    assert current_attempt(tmp_path / "old", *plan.args) == old


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.FINISHED])
def test_step_that_rq_calls_over_but_left_no_file_is_enqueued_again_and_both_routes_agree(
    queue: JobQueue, tmp_path: Path, status: JobStatus
) -> None:
    extraction = running(tmp_path)
    schedule_all(EXTRACTIONS, tmp_path, queue)
    plan = Job.fetch(extraction.job_id("plan"), connection=queue.connection, serializer=queue.serializer)
    queue.remove(plan)
    plan.set_status(status)
    settings = settings_of(queue, tmp_path, reconcile_seconds=0.2)
    with serving(create_trainer(settings)) as address, httpx.Client(base_url=address) as http:
        until(lambda: queue.get_job_ids() == [plan.id], "the step is enqueued again", 30)
        listed = http.get("/datasets").json()[0]
        assert listed == http.get("/datasets/faces").json()
        assert listed["extractions"][0]["state"] == "planning"


def test_step_that_ends_its_worker_each_time_fails_the_extraction_on_both_routes(
    queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extraction = running(tmp_path, state="extracting", shards=1, images=1)
    settings = settings_of(queue, tmp_path)
    for _ in range(MAX_ATTEMPTS):
        Attempt(shard_dir(tmp_path, extraction, 0))
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    jobs.embed_shard(NAME, extraction.attempt_id, 0)
    with serving(create_trainer(settings)) as address, httpx.Client(base_url=address) as http:
        (failed,) = http.get("/datasets/faces").json()["extractions"]
        assert failed["state"] == "failed" and failed["problem"]["type"].endswith(":jobs-lost")
        assert http.get("/datasets").json()[0] == http.get("/datasets/faces").json()


def test_shard_whose_proxy_is_away_waits_with_the_reason(
    queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extraction = running(tmp_path)
    (tmp_path / "faces" / "labels.csv").write_text("file,age,gender\na.jpg,3,f\n")
    (tmp_path / "faces" / "a.jpg").write_bytes(b"x")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", settings_of(queue, tmp_path).redis_url)
    monkeypatch.setenv("TRAINER_PROXY_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("trainer.extraction.embed.PATIENCE_SECONDS", 1.0)
    jobs.plan_extraction(NAME, extraction.attempt_id)
    jobs.embed_shard(NAME, extraction.attempt_id, 0)
    waiting = load_extraction(tmp_path, NAME)
    assert waiting.state == "extracting"
    assert waiting.problem is not None and waiting.problem["status"] == 503
    assert [step.job_id for step in EXTRACTIONS.steps(tmp_path, waiting)] == [extraction.job_id("shard-0")]


def test_finished_extraction_is_replaced_by_other_options_only_on_request(
    queue: JobQueue, tmp_path: Path
) -> None:
    settings = TrainerSettings(data_dir=tmp_path)
    save_extraction(tmp_path, EXTRACTION, state="finished", run="here")
    other = EXTRACTION.model_copy(update={"mirrored": True})
    with pytest.raises(Problem, match="mirrored was False and is True here") as refused:
        start(settings, queue.connection, other)
    assert (refused.value.slug, refused.value.status) == ("extraction-exists", 409)
    kept = load_extraction(tmp_path, NAME)
    assert (kept.state, kept.attempt) == ("finished", 1)
    assert start(settings, queue.connection, other, replace=True).attempt == 2
    save_extraction(tmp_path, EXTRACTION, state="finished", run="here", attempt=3)
    again = EXTRACTION.model_copy(update={"shard_size": 64})  # the same faces
    assert start(settings, queue.connection, again).attempt == 4


def test_cancel_cancels_and_delete_deletes_however_often_they_are_sent(
    queue: JobQueue, tmp_path: Path
) -> None:
    extraction = running(tmp_path)
    folder = tmp_path / "faces"
    write_plan(tables.FORMAT, one_image(folder), "images", 32, folder / "made-1" / "extract-images")
    settings = settings_of(queue, tmp_path, reconcile_seconds=60)
    with serving(create_trainer(settings)) as address, httpx.Client(base_url=address) as http:
        until(lambda: queue.get_job_ids() == [extraction.job_id("plan")], "it is enqueued", 30)
        refused = http.delete("/datasets/faces/extract")
        assert refused.status_code == 409 and refused.json()["type"].endswith(":still-running")
        assert "POST /datasets/faces/cancel" in refused.json()["detail"]
        for _ in range(3):
            (cancelled,) = http.post("/datasets/faces/cancel").json()
            assert cancelled["state"] == "cancelled"
            assert queue.get_job_ids() == []
        (deleted,) = http.delete("/datasets/faces/extract").json()
        assert deleted["state"] == "cancelled"
        assert http.get("/datasets/faces").json()["extractions"] == []
        assert not list(folder.glob("made-1/*"))
        assert http.delete("/datasets/faces/extract").json() == []


def test_cancel_that_meets_the_end_of_an_extraction_leaves_it_finished(
    queue: JobQueue, tmp_path: Path
) -> None:
    extraction = running(tmp_path, state="merging", shards=1, images=1)
    settings = settings_of(queue, tmp_path, reconcile_seconds=60)
    answers: list[Any] = []
    lock = record_lock(EXTRACTIONS.record_path(tmp_path, NAME))
    with serving(create_trainer(settings)) as address:
        url = f"{address}/datasets/faces/cancel"
        cancelling = threading.Thread(target=lambda: answers.append(httpx.post(url, timeout=30).json()))
        with lock:  # as the job of the merge holds it
            cancelling.start()
            cancelling.join(1)
            assert cancelling.is_alive()
            save_extraction(tmp_path, extraction, state="finished")
        cancelling.join(20)
    assert [one["state"] for answer in answers for one in answer] == ["finished"]
    assert not load_extraction(tmp_path, NAME).cancelled


def one_image(folder: Path) -> Path:
    (folder / "labels.csv").write_text("file,age,gender\na.jpg,3,f\n")
    (folder / "a.jpg").write_bytes(b"x")
    return folder


def test_unreadable_record_is_skipped_by_scheduler_and_lists_and_is_reported(
    queue: JobQueue, tmp_path: Path
) -> None:
    extraction = running(tmp_path)
    shutil.copytree(tmp_path / "faces", tmp_path / "cut")
    record = tmp_path / "cut" / "made-1" / "extraction-images.json"
    record.write_text(record.read_text()[:50])
    settings = settings_of(queue, tmp_path, reconcile_seconds=0.2)
    with serving(create_trainer(settings)) as address, httpx.Client(base_url=address) as http:
        until(lambda: queue.get_job_ids() == [extraction.job_id("plan")], "the good one is enqueued", 30)
        listed = {one["name"]: one["extractions"] for one in http.get("/datasets").json()}
        assert listed["cut"] == [] and len(listed["faces"]) == 1
        warnings = " ".join(http.get("/health/ready").json()["warnings"])
        assert "cut/made-1/images" in warnings and "JSONDecodeError" in warnings
        for path in ("/datasets", "/datasets/cut"):
            assert http.get(path).headers["X-Unreadable-Records"] == "cut/made-1/images"
        assert "X-Unreadable-Records" not in http.get("/datasets/faces").headers
