"""The queue between the API and the workers: RQ on Redis, with JSON instead of pickle."""

from datetime import UTC, datetime, timedelta

from agegender.errors import Problem
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from trainer.settings import TrainerSettings

QUEUE = "trainer"
_REQUEST_SECONDS = 3
_RETRY_AFTER_SECONDS = 5


def connect(settings: TrainerSettings) -> Redis:
    """Connect for jobs, which may wait for Redis."""
    return Redis.from_url(settings.redis_url, health_check_interval=30)


def connect_for_requests(settings: TrainerSettings) -> Redis:
    """Connect for requests, which fail within seconds if Redis is down or hangs."""
    return Redis.from_url(
        settings.redis_url,
        health_check_interval=30,
        socket_timeout=_REQUEST_SECONDS,
        socket_connect_timeout=_REQUEST_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )


def queue_away(error: Exception) -> Problem:
    """Return the answer to a request that needs Redis while it cannot be reached."""
    return Problem(
        "queue-away",
        503,
        f"Redis, which carries the jobs, cannot be reached ({error}). Nothing is lost: running jobs "
        "continue, and waiting jobs are enqueued again when Redis is back. Repeat the request then.",
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


def give_up_dead_jobs(queue: JobQueue) -> None:
    """Fail the jobs whose worker has been silent for too long.

    Workers do this as well, but only while they are idle.
    """
    queue.started_job_registry.cleanup()


def fetch_job(queue: JobQueue, job_id: str) -> Job | None:
    """Return a job, None if the queue has none of this id."""
    try:
        return Job.fetch(job_id, connection=queue.connection, serializer=queue.serializer)
    except NoSuchJobError:
        return None


def delete_job(queue: JobQueue, job: Job) -> None:
    """Delete a job, even if its worker is long dead and RQ's records of its execution have expired."""
    executions = job.execution_registry
    for execution in executions.get_execution_ids():
        queue.connection.zrem(queue.started_job_registry.key, f"{job.id}:{execution}")
    queue.connection.delete(executions.key)
    job.delete()


def drop_waiting_job(queue: JobQueue, job_id: str) -> None:
    """Remove a job from the queue unless a worker has begun it."""
    job = fetch_job(queue, job_id)
    if job is not None and not job.is_started:
        delete_job(queue, job)


def is_alive(queue: JobQueue, job: Job, waiting: set[str]) -> bool:
    """Return whether a job waits or runs.

    waiting : ids of the jobs that wait.
    """
    # Use status and heartbeat as they were fetched together: RQ writes both in one transaction.
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
