"""When a worker is presumed dead. The only test of the production values; other tests set smaller ones."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trainer.jobs
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.utils import now
from trainer.jobs import train_fold
from trainer.runs.run import Step
from trainer.runs.scheduler import enqueue_step, job_queue
from trainer.settings import TrainerSettings
from trainer.worker import AwaitedQueue, make_worker

from tests.support.recovery import PROMISED
from tests.support.redis_server import redis_server

FOLD = Step("fold", train_fold, ("experiment", 0), 600)
IMPORTS = 8.0  # seconds that a worker needs to start, measured on two cores


def test_silent_worker_loses_its_job_after_15_s_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEARTBEAT", "RECONCILE"):
        monkeypatch.delenv(f"TRAINER_{name}_SECONDS", raising=False)
    with redis_server(tmp_path) as server:
        settings = TrainerSettings(redis_url=server.url)
        worker, queue = make_worker(settings), job_queue(server.client, settings)
        assert worker.job_monitoring_interval == 5
        assert worker.maintenance_interval == 10
        assert worker.max_connection_wait_time == 15
        enqueue_step(queue, FOLD)
        taken = queue.dequeue_any([queue], None, connection=server.client, serializer=queue.serializer)
        assert taken is not None
        job, _ = taken
        assert worker.get_heartbeat_ttl(job) == 15
        worker.prepare_execution(job)
        worker.prepare_job_execution(job)
        for silent, waits in ((14, []), (16, ["fold"])):
            job.heartbeat(now() - timedelta(seconds=silent), 60)
            enqueue_step(queue, FOLD)
            assert queue.get_job_ids() == waits
        assert not Job.fetch("fold", server.client, queue.serializer).is_started
    # From the last heartbeat until another worker, started then, has the job.
    assert settings.presumed_dead_seconds + settings.reconcile_seconds + IMPORTS <= PROMISED


def test_job_waits_in_the_queue_until_its_worker_has_imported_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken before that, it would be a job without a heartbeat, for as long as the imports take."""
    waiting: list[list[str]] = []
    with redis_server(tmp_path) as server:
        queue = job_queue(server.client, TrainerSettings(redis_url=server.url))
        monkeypatch.setattr(AwaitedQueue, "imported", False)
        monkeypatch.setattr(trainer.jobs, "preload", lambda: waiting.append(queue.get_job_ids()))
        take: dict[str, Any] = {"connection": server.client, "serializer": queue.serializer}
        with pytest.raises(DequeueTimeout):
            AwaitedQueue.dequeue_any([queue], 1, **take)
        assert waiting == []
        for fold in (0, 1):
            enqueue_step(queue, Step(f"fold{fold}", train_fold, ("experiment", fold), 600))
        taken = AwaitedQueue.dequeue_any([queue], 1, **take)
        assert waiting == [["fold0", "fold1"]]
        assert taken is not None and taken[0].id == "fold0"
        assert queue.get_job_ids() == ["fold1"]
        AwaitedQueue.dequeue_any([queue], 1, **take)
        assert len(waiting) == 1  # once
        assert AwaitedQueue.dequeue_any([queue], None, **take) is None
