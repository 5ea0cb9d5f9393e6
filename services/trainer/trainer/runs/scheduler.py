"""Keep the queue in step with the files: each step that is not done and has no living job gets a job.

This is the only module that enqueues. It is called after every change and every few seconds, by the API and
at the end of each job, so a run continues whatever was killed or lost: a worker, the API, Redis with or
without its data. A job that runs twice does no harm: it writes the same numbers to the same files, and the
older of two attempts gives way (`trainer.runs.attempt`). The queue is RQ on Redis, with JSON instead of
pickle; its metrics are at the end.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from agegender.errors import Problem
from agegender.files import why_not_writable
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, Worker
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from trainer.runs.run import TRASH, Kind, R, S, Step, each
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)

QUEUE = "trainer"
# Folders that training fills. Data sets are not measured: they have too many files to list at a scrape.
_FOLDERS = ("experiments", "searches", "evaluations", "videos", "models", TRASH)
_SIZES_SECONDS = 60.0  # for which the sizes of these are kept
_REQUEST_SECONDS = 3
_RETRY_AFTER_SECONDS = 5
_FAILED_JOB_SECONDS = 3600  # for which the queue keeps a failed job


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
    """Delete a job, even if its worker is long dead and RQ's records of its execution have expired.

    A job that ends and vanishes at the same moment is deleted too.
    """
    executions = job.execution_registry
    for execution in executions.get_execution_ids():
        queue.connection.zrem(queue.started_job_registry.key, f"{job.id}:{execution}")
    queue.connection.delete(executions.key)
    with suppress(InvalidJobOperation):  # RQ asks for the status of a job that is gone
        job.delete()


def drop_waiting_job(queue: JobQueue, job_id: str) -> None:
    """Remove a job from the queue unless a worker has begun it."""
    job = fetch_job(queue, job_id)
    if job is not None and job.get_status(refresh=False) != JobStatus.STARTED:
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


async def keep_scheduling(settings: TrainerSettings, kinds: Sequence[Kind[Any, Any]]) -> None:
    """Enqueue, every few seconds, what Redis or a dead worker lost; return only when cancelled."""
    queue = job_queue(connect(settings), settings)
    tasks: dict[str, Callable[[], None]] = {
        "dead jobs": partial(give_up_dead_jobs, queue),
        **{kind.path: partial(schedule_all, kind, settings.data_dir, queue) for kind in kinds},
    }
    while True:
        if (reason := why_not_writable(settings.data_dir)) is None:
            for name, task in tasks.items():
                try:
                    await asyncio.to_thread(task)
                except Exception as error:  # Redis is down or the volume full: try again later
                    log.warning("queue and files not compared", of=name, error=str(error))
        else:  # a job would fail, and could not even store why
            log.warning("no jobs enqueued", reason=reason)
        await asyncio.sleep(settings.reconcile_seconds)


def schedule_all(kind: Kind[R, S], data_dir: Path, queue: JobQueue) -> None:
    """Schedule every run of a kind that can be read. Raises `RedisError`."""
    for _ in each(kind, data_dir, partial(schedule, kind, data_dir, queue)):
        pass


def schedule(kind: Kind[R, S], data_dir: Path, queue: JobQueue, run: R) -> None:
    """Enqueue the steps that a run needs now."""
    if not run.cancelled and (steps := list(kind.steps(data_dir, run))):
        enqueue_steps(queue, run.id, steps)


def cancel(kind: Kind[R, S], data_dir: Path, queue: JobQueue, name: str) -> R:
    """Cancel an active run and return its record; a run that is over stays as it is.

    Waiting jobs leave the queue; a running one stops at its next check.
    """
    steps: list[Step] = []

    def unless_over(run: R) -> R:
        if not kind.is_active(kind.status(data_dir, run)):
            return run
        steps.extend(kind.steps(data_dir, run))
        return kind.cancelled(data_dir, run)

    cancelled = kind.change(data_dir, name, unless_over)
    for step in steps:
        drop_waiting_job(queue, step.job_id)
    return cancelled


def enqueue_steps(queue: JobQueue, run_id: str, steps: Iterable[Step]) -> None:
    """Enqueue steps unless their jobs wait or run; replace a job that failed or lost its worker.

    One caller at a time handles a run. A caller that dies delays the others for twice `presumed_dead`.
    """
    seconds = 2 * queue.presumed_dead.total_seconds()
    with queue.connection.lock(f"trainer:reconcile:{run_id}", timeout=seconds):
        waiting = set(queue.get_job_ids())
        for step in steps:
            enqueue_step(queue, step, waiting)


def enqueue_step(queue: JobQueue, step: Step, waiting: set[str] | None = None) -> None:
    """Enqueue one step as `enqueue_steps` does, without a lock.

    waiting : ids of the jobs that wait, if the caller has them already.
    """
    waiting = set(queue.get_job_ids()) if waiting is None else waiting
    job = fetch_job(queue, step.job_id)
    if job is not None:
        outdated = job.id in waiting and not _calls(job, step)
        if not outdated and is_alive(queue, job, waiting):
            return
        reason = "it names a function of another release" if outdated else "it lost its worker"
        log.warning("job replaced", job=step.job_id, reason=reason, status=str(job.get_status(refresh=False)))
        delete_job(queue, job)
    queue.connection.delete(queue.intermediate_queue.get_first_seen_key(step.job_id))
    queue.enqueue_call(
        step.job,
        args=step.arguments,
        job_id=step.job_id,
        timeout=step.seconds,
        result_ttl=0,
        failure_ttl=_FAILED_JOB_SECONDS,
        description=step.job_id,
        at_front=step.first,
    )


def _calls(job: Job, step: Step) -> bool:
    return bool(job.func_name == f"{step.job.__module__}.{step.job.__qualname__}")


class QueueCollector(Collector):
    """Collect jobs by state, living workers, the memory of Redis and the space on the data volume.

    Omits what cannot be read: the metrics of Redis while it cannot be reached, those of the volume while
    it is not mounted. An alert on their absence is in monitoring/alerts.yml.
    """

    def __init__(self, connection: Redis, data_dir: Path) -> None:
        self._connection = connection
        self._data_dir = data_dir
        self._sizes: dict[str, int] = {}
        self._sizes_end = 0.0

    def describe(self) -> list[Metric]:
        """Return the names only, so that registration makes no call to Redis."""
        return [_jobs(), _workers(), *_each_worker(), *_redis_memory(), *_volume(), _folders()]

    def collect(self) -> Iterator[Metric]:
        yield from self._volume_space()
        yield from self._queue_and_redis()

    def _volume_space(self) -> Iterator[GaugeMetricFamily]:
        size, free = _volume()
        try:
            usage = shutil.disk_usage(self._data_dir)
        except OSError as error:
            log.warning("data volume not measured", error=str(error))
            return
        size.add_metric([], usage.total)
        free.add_metric([], usage.free)
        yield size
        yield free
        if time.monotonic() >= self._sizes_end:
            self._sizes = {name: folder_size(self._data_dir / name) for name in _FOLDERS}
            self._sizes_end = time.monotonic() + _SIZES_SECONDS
        folders = _folders()
        for name, occupied in self._sizes.items():
            folders.add_metric([name], occupied)
        yield folders

    def _queue_and_redis(self) -> Iterator[Metric]:
        memory, memory_limit = _redis_memory()
        queue = job_queue(self._connection)
        jobs, workers = _jobs(), _workers()
        busy, seconds, outcomes = _each_worker()
        try:
            for state, count in (
                ("waiting", queue.count),
                ("running", queue.started_job_registry.count),
                ("failed", queue.failed_job_registry.count),
            ):
                jobs.add_metric([state], count)
            living = Worker.all(queue=queue, serializer=queue.serializer)
            workers.add_metric([], len(living))
            for worker in living:  # they serve no HTTP; what RQ records of them is in Redis
                name = f"{worker.hostname}:{worker.pid}"
                busy.add_metric([name], worker.get_current_job_id() is not None)
                seconds.add_metric([name], worker.total_working_time)
                outcomes.add_metric([name, "finished"], worker.successful_job_count)
                outcomes.add_metric([name, "failed"], worker.failed_job_count)
            info = self._connection.info("memory")
            memory.add_metric([], info["used_memory"])
            if info["maxmemory"]:
                memory_limit.add_metric([], info["maxmemory"])
        except RedisError as error:
            log.warning("queue not counted", error=str(error))
            return
        yield jobs
        yield workers
        yield busy
        yield seconds
        yield outcomes
        yield memory
        yield memory_limit


def watch_queue(connection: Redis, data_dir: Path, registry: CollectorRegistry = REGISTRY) -> QueueCollector:
    """Register the queue's, Redis's and the volume's metrics until the collector is unregistered."""
    collector = QueueCollector(connection, data_dir)
    registry.register(collector)
    return collector


def _jobs() -> GaugeMetricFamily:
    return GaugeMetricFamily("trainer_jobs", "Jobs of the queue, by state", labels=["state"])


def _workers() -> GaugeMetricFamily:
    return GaugeMetricFamily("trainer_workers", "Workers that listen to the queue")


def _each_worker() -> tuple[GaugeMetricFamily, CounterMetricFamily, CounterMetricFamily]:
    return (
        GaugeMetricFamily("trainer_worker_busy", "1 if the worker has a job", labels=["worker"]),
        CounterMetricFamily("trainer_worker_seconds", "Seconds spent on jobs that ended", labels=["worker"]),
        CounterMetricFamily("trainer_worker_jobs", "Jobs that ended", labels=["worker", "outcome"]),
    )


def _redis_memory() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("trainer_redis_memory_bytes", "Memory that Redis uses for its data"),
        GaugeMetricFamily("trainer_redis_memory_limit_bytes", "Maximum of that memory (maxmemory), if any"),
    )


def folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder. Files that disappear meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _folders() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "trainer_files_bytes", "Size of the files in a folder of the data volume", labels=["folder"]
    )


def _volume() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("trainer_volume_size_bytes", "Size of the volume that holds the data folder"),
        GaugeMetricFamily("trainer_volume_free_bytes", "Space on that volume that is free for the services"),
    )
