"""Prometheus metrics of the queue, read from Redis when they are asked for."""

from collections.abc import Iterator

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry
from redis import Redis, RedisError
from rq import Worker

from trainer.queues import job_queue

log = structlog.get_logger(__name__)


class QueueCollector(Collector):
    """Jobs by state and living workers. Tells nothing while Redis cannot be reached."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection

    def describe(self) -> list[GaugeMetricFamily]:
        """Names only, so that registering asks nothing of Redis."""
        return [_jobs(), _workers()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
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
        except RedisError as error:
            log.warning("queue not counted", error=str(error))
            return
        yield jobs
        yield workers


def watch_queue(connection: Redis, registry: CollectorRegistry = REGISTRY) -> QueueCollector:
    """Show the queue at `/metrics` until the collector is unregistered."""
    collector = QueueCollector(connection)
    registry.register(collector)
    return collector


def _jobs() -> GaugeMetricFamily:
    return GaugeMetricFamily("trainer_jobs", "Jobs of the queue, by state", labels=["state"])


def _workers() -> GaugeMetricFamily:
    return GaugeMetricFamily("trainer_workers", "Workers that listen to the queue")
