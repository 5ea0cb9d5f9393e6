"""When a worker is presumed dead. The only test of the production values; other tests set smaller ones."""

from datetime import timedelta
from pathlib import Path

import pytest
from rq.job import Job
from rq.utils import now
from trainer.jobs import train_fold
from trainer.runs.run import Step
from trainer.runs.scheduler import enqueue_step, job_queue
from trainer.settings import TrainerSettings
from trainer.worker import make_worker

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
