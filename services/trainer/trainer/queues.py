"""The queue between the API and the workers: RQ on Redis, with JSON instead of pickle."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from agegender.errors import Problem
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)

QUEUE = "trainer"
_KEPT_SECONDS = 3600
_PATIENCE_SECONDS = 3
_RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True)
class WantedJob:
    """A job that should exist until its work is done. Its arguments are names: the truth lies on disk.

    first : it goes before the jobs that wait.
    """

    id: str
    function: str
    arguments: Sequence[str | int]
    seconds: int
    first: bool = False


def connect(settings: TrainerSettings) -> Redis:
    return Redis.from_url(settings.redis_url, health_check_interval=30)


def connect_impatiently(settings: TrainerSettings) -> Redis:
    """For answering requests: a Redis that is away or hangs is told within seconds."""
    return Redis.from_url(
        settings.redis_url,
        health_check_interval=30,
        socket_timeout=_PATIENCE_SECONDS,
        socket_connect_timeout=_PATIENCE_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )


def queue_away(error: Exception) -> Problem:
    """What a request is told that needs Redis while it cannot be reached."""
    return Problem(
        "queue-away",
        503,
        f"Redis, which carries the jobs, cannot be reached ({error}). Nothing is lost: what runs goes on, "
        "what waits is enqueued again when Redis is back. Repeat the request then.",
        retry_after=_RETRY_AFTER_SECONDS,
    )


class JobQueue(Queue):
    """RQ's queue, and how long a worker may be silent before it is presumed dead."""

    presumed_dead = timedelta(0)  # `job_queue` sets it


def job_queue(connection: Redis, settings: TrainerSettings | None = None) -> JobQueue:
    """Return the queue of all the trainer's jobs; without `settings` those of the environment apply."""
    queue = JobQueue(QUEUE, connection=connection, serializer=JSONSerializer)
    queue.presumed_dead = timedelta(seconds=(settings or TrainerSettings()).presumed_dead_seconds)
    return queue


def ensure_jobs(queue: JobQueue, of: str, wanted: Iterable[WantedJob]) -> None:
    """Enqueue jobs unless those of their ids wait or run; one that failed or lost its worker is replaced.

    of : the experiment or search whose jobs they are; one caller at a time looks after them. One that dies
        holds up the others for twice `JobQueue.presumed_dead`.
    """
    seconds = 2 * queue.presumed_dead.total_seconds()
    with queue.connection.lock(f"trainer:reconcile:{of}", timeout=seconds):
        waiting = set(queue.get_job_ids())
        for job in wanted:
            ensure_job(queue, job, waiting)


def ensure_job(queue: JobQueue, wanted: WantedJob, waiting: set[str] | None = None) -> None:
    """The same for one job, without a lock.

    waiting : ids of the jobs that wait, where the caller has them already.
    """
    waiting = set(queue.get_job_ids()) if waiting is None else waiting
    job = _job(queue, wanted.id)
    if job is not None:
        if _is_alive(queue, job, waiting):
            return
        log.warning("job lost its worker, enqueued again", job=wanted.id, status=str(job.get_status()))
        _delete(queue, job)
    popped = queue.intermediate_queue
    queue.connection.delete(popped.get_first_seen_key(wanted.id))
    queue.enqueue_call(
        wanted.function,
        args=tuple(wanted.arguments),
        job_id=wanted.id,
        timeout=wanted.seconds,
        result_ttl=0,
        failure_ttl=_KEPT_SECONDS,
        description=wanted.id,
        at_front=wanted.first,
    )


def give_up_dead_jobs(queue: JobQueue) -> None:
    """Jobs whose worker has been silent for too long wait again, or have failed where no retry is left.

    Workers do this as well, but only while they have nothing to do.
    """
    queue.started_job_registry.cleanup()


def drop_waiting_job(queue: JobQueue, job_id: str) -> None:
    """Take a job from the queue unless a worker has begun it."""
    job = _job(queue, job_id)
    if job is not None and not job.is_started:
        _delete(queue, job)


def _job(queue: JobQueue, job_id: str) -> Job | None:
    try:
        return Job.fetch(job_id, connection=queue.connection, serializer=queue.serializer)
    except NoSuchJobError:
        return None


def _delete(queue: JobQueue, job: Job) -> None:
    """RQ alone cannot delete a job whose worker is long dead: the records of its executions have expired."""
    executions = job.execution_registry
    for execution in executions.get_execution_ids():
        queue.connection.zrem(queue.started_job_registry.key, f"{job.id}:{execution}")
    queue.connection.delete(executions.key)
    job.delete()


def _is_alive(queue: JobQueue, job: Job, waiting: set[str]) -> bool:
    # Status and heartbeat as they were fetched together: RQ writes both in one transaction.
    status = job.get_status(refresh=False)
    if status == JobStatus.QUEUED:
        if job.id in waiting:
            return True
        # A worker took it and is starting a process for it, which takes a second or more.
        queue.intermediate_queue.set_first_seen(job.id)
        return _is_recent(queue.intermediate_queue.get_first_seen(job.id), queue.presumed_dead)
    if status == JobStatus.STARTED:
        return _is_recent(job.last_heartbeat, queue.presumed_dead)
    return False


def _is_recent(moment: datetime | None, within: timedelta) -> bool:
    if moment is None:
        return False
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return datetime.now(UTC) - moment < within
