"""`python -m trainer.worker`: pull jobs from the queue and run each in a process forked from this one.

The worker is RQ's, with heartbeats that let its job be taken over within seconds of its death. It imports
what jobs need when the first one waits in the queue, and has a sixth of the memory until then.
"""

import os
import signal
from collections.abc import Iterable
from typing import Any

from agegender_service.observability import configure_logs
from agegender_service.settings import read_settings
from redis import Redis
from rq import Queue
from rq.exceptions import DequeueTimeout, NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker import Worker

from trainer.runs.scheduler import QUEUE, connect
from trainer.settings import TrainerSettings

_WORKER_TTL = 25  # RQ waits 15 less for a job, and 5 less for any answer of Redis


class AwaitedQueue(Queue):
    """A worker's queue, whose first job waits until everything that a job needs is imported.

    It waits in the queue, where no other process can think that its worker is dead.
    """

    imported = False

    @classmethod
    def dequeue_any(
        cls, queues: Iterable[Queue], timeout: int | None, connection: Redis, *more: Any, **options: Any
    ) -> tuple[Job, Queue] | None:
        """Take the next job. Raises `DequeueTimeout` if there is none in `timeout` seconds."""
        if not AwaitedQueue.imported:
            (queue,) = queues
            if timeout is None:
                if not connection.llen(queue.key):
                    return None
            # From one end of the queue to the same one: this waits for a job, and leaves it there.
            elif connection.blmove(queue.key, queue.key, timeout, src="LEFT", dest="LEFT") is None:
                raise DequeueTimeout(timeout, queue.key)
            _import_for_jobs()
            AwaitedQueue.imported = True
        return super().dequeue_any(queues, timeout, connection, *more, **options)


class TrainerWorker(Worker):
    """Run each job in a process forked from this one, which has imported everything a job needs.

    A worker is presumed dead `presumed_dead_seconds` after its job's last heartbeat, where RQ waits a minute
    longer. It gives up on a Redis that does not answer within 20 seconds, where RQ waits seven minutes.
    """

    queue_class = AwaitedQueue
    presumed_dead_seconds = 0  # `make_worker` sets it

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """Record success, unless the job was given to another worker while this one was presumed dead."""
        if self._has(job):
            super().handle_job_success(job, queue, started_job_registry, execution)
        else:
            self._give_way(job, execution)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Record a failure or the death of the job's process, on the same condition."""
        if self._has(job):
            super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)
        else:
            self._give_way(job, execution)

    def _has(self, job: Job) -> bool:
        try:
            record = Job.fetch(job.id, connection=self.connection, serializer=self.serializer)
        except NoSuchJobError:
            return False
        return record.worker_name == self.name

    def _give_way(self, job: Job, execution: Execution | None) -> None:
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(job, pipeline=pipeline, execution=execution)
            pipeline.execute()

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return self.presumed_dead_seconds


def _import_for_jobs() -> None:
    """Import what jobs need, without SIGTERM, which RQ turns into an exception that an import may swallow."""
    from trainer.jobs import preload

    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        preload()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)


def make_worker(settings: TrainerSettings) -> TrainerWorker:
    """Return a worker of the trainer's queue."""
    connection = connect(settings)
    worker = TrainerWorker(
        [AwaitedQueue(QUEUE, connection=connection, serializer=JSONSerializer)],
        connection=connection,
        serializer=JSONSerializer,
        worker_ttl=_WORKER_TTL,
        job_monitoring_interval=settings.heartbeat_seconds,
        maintenance_interval=2 * settings.heartbeat_seconds,
        log_job_description=False,
    )
    worker.presumed_dead_seconds = settings.presumed_dead_seconds
    # RQ waits up to a minute between attempts to reach a Redis that is down.
    worker.max_connection_wait_time = float(settings.presumed_dead_seconds)
    return worker


def main() -> None:
    settings = read_settings(TrainerSettings)
    configure_logs(settings.log_format, settings.log_level)
    settings.log_deprecations()
    # Threads of one job that spin while they wait for more work would take another worker's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # torch then counts GPUs without starting CUDA, which a process forked later could not use.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    make_worker(settings).work(logging_level=settings.log_level, with_scheduler=False)


if __name__ == "__main__":
    main()
