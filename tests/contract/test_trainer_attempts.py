"""What the API concludes from an extraction's jobs, while a worker changes them."""

from collections.abc import Iterator
from typing import Any

import pytest
from agegender.spaces import Space
from redis_server import redis_server
from rq import Queue
from rq.job import Job, JobStatus
from trainer.extraction.state import Extraction
from trainer.jobs.attempts import enqueue_first, enqueue_part, has_jobs
from trainer.queues import job_queue

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
