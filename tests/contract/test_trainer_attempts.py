"""What the API concludes from an extraction's jobs, while a worker changes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agegender.spaces import Space
from rq import Queue
from rq.job import Job, JobStatus
from trainer.api.datasets import start
from trainer.extraction.state import Extraction, read_state
from trainer.jobs.attempts import current, enqueue_first, enqueue_part, has_jobs
from trainer.queues import job_queue
from trainer.settings import TrainerSettings

from tests.support.redis_server import redis_server

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
