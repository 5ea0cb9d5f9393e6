"""What a worker is, and how it says that it lives."""

import gc
from importlib import import_module

from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker import Worker

from trainer.queues import connect, job_queue
from trainer.settings import TrainerSettings

_PRELOADED = (
    "trainer.jobs.train",
    "trainer.jobs.report",
    "sklearn.model_selection",
    "torch._inductor.config",
)
_WORKER_TTL = 25  # RQ waits 15 less for a job, and 5 less for any answer of Redis


def preload() -> None:
    """Import, once and not in each job, what training needs: that takes longer than to train on a few faces.

    Nothing is computed here: threads that torch or OpenMP had started would be missing in a forked job.
    """
    for module in _PRELOADED:
        import_module(module)
    gc.freeze()  # jobs share the memory of what they do not touch, and the collector would


class TrainerWorker(Worker):
    """Runs each job in a process forked from its own, in which `preload` has imported everything.

    It is presumed dead `presumed_dead_seconds` after its job's last heartbeat, not RQ's minute later, and
    gives up a Redis that does not answer within 20 seconds, not seven minutes.
    """

    presumed_dead_seconds = 0  # `make_worker` sets it

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """A worker that was held for dead leaves the job's record to the worker that has the job now."""
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
        """The same for a job that failed or whose process died."""
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


def make_worker(settings: TrainerSettings) -> TrainerWorker:
    connection = connect(settings)
    worker = TrainerWorker(
        [job_queue(connection, settings)],
        connection=connection,
        serializer=JSONSerializer,
        worker_ttl=_WORKER_TTL,
        job_monitoring_interval=settings.heartbeat_seconds,
        maintenance_interval=2 * settings.heartbeat_seconds,
        log_job_description=False,
    )
    worker.presumed_dead_seconds = settings.presumed_dead_seconds
    # RQ waits up to a minute between attempts to reach a Redis that is away.
    worker.max_connection_wait_time = float(settings.presumed_dead_seconds)
    return worker
