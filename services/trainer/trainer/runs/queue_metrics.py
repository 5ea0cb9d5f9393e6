"""Prometheus metrics of the queue, of Redis and of the data volume, read at each scrape."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry
from redis import Redis, RedisError
from rq import Worker

from trainer.runs.queue import job_queue

log = structlog.get_logger(__name__)


class QueueCollector(Collector):
    """Collect jobs by state, living workers, the memory of Redis and the space on the data volume.

    Leaves out what cannot be read: the metrics of Redis while it cannot be reached, those of the volume while
    it is not mounted. An alert on their absence is in monitoring/alerts.yml.
    """

    def __init__(self, connection: Redis, data_dir: Path) -> None:
        self._connection = connection
        self._data_dir = data_dir

    def describe(self) -> list[GaugeMetricFamily]:
        """Return the names only, so that registration makes no call to Redis."""
        return [_jobs(), _workers(), _redis_memory(), *_volume()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
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

    def _queue_and_redis(self) -> Iterator[GaugeMetricFamily]:
        memory = _redis_memory()
        queue = job_queue(self._connection)
        jobs, workers = _jobs(), _workers()
        try:
            for state, count in (
                ("waiting", queue.count),
                ("running", queue.started_job_registry.count),
                ("failed", queue.failed_job_registry.count),
            ):
                jobs.add_metric([state], count)
            workers.add_metric([], Worker.count(queue=queue))
            memory.add_metric([], self._connection.info("memory")["used_memory"])
        except RedisError as error:
            log.warning("queue not counted", error=str(error))
            return
        yield jobs
        yield workers
        yield memory


def watch_queue(connection: Redis, data_dir: Path, registry: CollectorRegistry = REGISTRY) -> QueueCollector:
    """Register the queue's, Redis's and the volume's metrics until the collector is unregistered."""
    collector = QueueCollector(connection, data_dir)
    registry.register(collector)
    return collector


def _jobs() -> GaugeMetricFamily:
    return GaugeMetricFamily("trainer_jobs", "Jobs of the queue, by state", labels=["state"])


def _workers() -> GaugeMetricFamily:
    return GaugeMetricFamily("trainer_workers", "Workers that listen to the queue")


def _redis_memory() -> GaugeMetricFamily:
    return GaugeMetricFamily("trainer_redis_memory_bytes", "Memory that Redis uses for its data")


def _volume() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("trainer_volume_size_bytes", "Size of the volume that holds the data folder"),
        GaugeMetricFamily("trainer_volume_free_bytes", "Space on that volume that is free for the services"),
    )
