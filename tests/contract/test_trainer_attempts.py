"""What the API concludes from an extraction's jobs, while a worker changes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.errors import Problem
from agegender.spaces import Space
from rq import Queue
from rq.job import Job, JobStatus
from trainer.api.datasets import start
from trainer.app import create_trainer
from trainer.extraction.schedule import reconcile_extractions
from trainer.extraction.state import Extraction, read_state, write_state
from trainer.jobs.attempts import current, enqueue_first, enqueue_part, has_jobs
from trainer.queues import job_queue
from trainer.settings import TrainerSettings

from tests.support.redis_server import redis_server
from tests.support.serving import serving, until

EXTRACTION = Extraction(
    dataset="faces",
    kind="utkface",
    variant="images",
    space=Space(id="made-1", dimension=4),
    mirrored=False,
    shard_size=32,
    min_det_score=0,
)


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield job_queue(server.client)


def job(queue: Queue, part: str) -> Job:
    return Job.fetch(EXTRACTION.job_id(part), connection=queue.connection, serializer=queue.serializer)


def test_a_plan_that_ends_between_two_looks_does_not_lose_the_extraction(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_first(queue, EXTRACTION)
    fetch_many = Job.fetch_many

    def slow_look(*arguments: Any, **options: Any) -> list[Job | None]:
        found = fetch_many(*arguments, **options)
        enqueue_part(queue, "trainer.jobs.merge.merge_shards", EXTRACTION, "merge", 60)
        job(queue, "plan").set_status(JobStatus.FINISHED)
        return found

    monkeypatch.setattr(Job, "fetch_many", slow_look)
    assert has_jobs(queue, EXTRACTION)
    monkeypatch.undo()
    assert has_jobs(queue, EXTRACTION)
    job(queue, "merge").set_status(JobStatus.FAILED)
    assert not has_jobs(queue, EXTRACTION)


def test_extraction_is_planned_though_redis_holds_jobs_of_the_same_name_on_another_volume(
    queue: Queue, tmp_path: Path
) -> None:
    started = []
    for volume in ("old", "new"):
        settings = TrainerSettings(data_dir=tmp_path / volume)
        status = start(settings, queue.connection, EXTRACTION)
        assert status.state == "planning" and status.attempt == 1
        extraction = read_state(settings.data_dir, "faces", "made-1", "images")
        assert extraction is not None
        enqueue_part(queue, "trainer.jobs.merge.merge_shards", extraction, "merge", 60)
        started.append(extraction)
    old, new = started
    assert {old.job_id("plan"), new.job_id("plan")} <= set(queue.get_job_ids())
    # A job of the old volume that a worker of the new one takes does nothing there.
    plan = Job.fetch(old.job_id("plan"), connection=queue.connection, serializer=queue.serializer)
    assert current(tmp_path / "new", *plan.args) is None
    assert current(tmp_path / "old", *plan.args) == old


def made_dataset(data_dir: Path) -> None:
    (data_dir / "faces" / "images").mkdir(parents=True)
    (data_dir / "faces" / "labels.csv").write_text("file,age,gender\n")
    write_state(data_dir, EXTRACTION, state="extracting", run="here")


def test_extraction_whose_jobs_redis_lost_is_enqueued_again(queue: Queue, tmp_path: Path) -> None:
    queue.connection.flushdb()
    made_dataset(tmp_path)
    reconcile_extractions(tmp_path, queue)
    extraction = read_state(tmp_path, "faces", "made-1", "images")
    assert extraction is not None and (extraction.state, extraction.attempt) == ("extracting", 1)
    assert queue.get_job_ids() == [extraction.job_id("plan")]
    reconcile_extractions(tmp_path, queue)
    assert queue.get_job_ids() == [extraction.job_id("plan")]


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.FINISHED])
def test_both_routes_tell_that_an_extraction_lost_its_job(
    queue: Queue, tmp_path: Path, status: JobStatus
) -> None:
    """Also where RQ says finished of a job that never wrote so."""
    queue.connection.flushdb()
    made_dataset(tmp_path)
    reconcile_extractions(tmp_path, queue)
    extraction = read_state(tmp_path, "faces", "made-1", "images")
    assert extraction is not None
    plan = Job.fetch(extraction.job_id("plan"), connection=queue.connection, serializer=queue.serializer)
    queue.remove(plan)
    plan.set_status(status)
    url = f"redis://127.0.0.1:{queue.connection.connection_pool.connection_kwargs['port']}/0"
    settings = TrainerSettings(data_dir=tmp_path, redis_url=url, reconcile_seconds=0.2)
    with serving(create_trainer(settings)) as address, httpx.Client(base_url=address) as http:

        def listed() -> Any:
            return http.get("/datasets").json()[0]["extractions"][0]

        until(lambda: listed()["state"] == "failed", "the list tells it", 30)
        shown = http.get("/datasets/faces").json()["extractions"][0]
        assert shown["problem"] == listed()["problem"]
        assert shown["problem"]["type"].endswith(":jobs-lost")


def test_finished_extraction_is_replaced_by_other_options_only_when_that_is_said(
    queue: Queue, tmp_path: Path
) -> None:
    settings = TrainerSettings(data_dir=tmp_path)
    write_state(tmp_path, EXTRACTION, state="finished", run="here")
    other = EXTRACTION.model_copy(update={"mirrored": True})
    with pytest.raises(Problem, match="mirrored was False and is True here") as refused:
        start(settings, queue.connection, other)
    assert (refused.value.slug, refused.value.status) == ("extraction-exists", 409)
    kept = read_state(tmp_path, "faces", "made-1", "images")
    assert kept is not None and (kept.state, kept.attempt) == ("finished", 1)
    assert start(settings, queue.connection, other, replace=True).attempt == 2
    write_state(tmp_path, EXTRACTION, state="finished", run="here", attempt=3)
    again = EXTRACTION.model_copy(update={"shard_size": 64})  # the same faces
    assert start(settings, queue.connection, again).attempt == 4
