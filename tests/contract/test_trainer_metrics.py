"""Metrics of the queue at `/metrics` of the trainer, with a real Redis server."""

import shutil
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rq import SimpleWorker, Worker
from trainer.app import create_trainer
from trainer.runs.scheduler import job_queue
from trainer.settings import TrainerSettings

from tests.support.redis_server import redis_server
from tests.support.serving import serving


def gauges(url: str) -> dict[str, float]:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def queue_metrics(url: str) -> dict[str, float]:
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
        if family.name in ("trainer_jobs", "trainer_workers")
        for sample in family.samples
    }


def test_waiting_jobs_and_workers_are_counted(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        settings = TrainerSettings(data_dir=tmp_path / "data", redis_url=server.url)
        with serving(create_trainer(settings)) as url:
            none = {"trainer_jobs waiting": 0, "trainer_jobs running": 0, "trainer_jobs failed": 0}
            assert queue_metrics(url) == {**none, "trainer_workers": 0}
            queue = job_queue(server.client)
            queue.enqueue("trainer.jobs.train_fold", "nothing", 0)
            worker = Worker([queue], connection=server.client, serializer=queue.serializer)
            worker.register_birth()  # type: ignore[no-untyped-call]
            assert queue_metrics(url) == {**none, "trainer_jobs waiting": 1, "trainer_workers": 1}


def test_each_worker_reports_its_jobs(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        settings = TrainerSettings(data_dir=tmp_path / "data", redis_url=server.url)
        with serving(create_trainer(settings)) as url:
            queue = job_queue(server.client)
            queue.enqueue("builtins.len", "a job that works")
            queue.enqueue("builtins.int", "a job that fails")
            worker = SimpleWorker([queue], connection=server.client, serializer=queue.serializer)
            worker.register_birth()  # type: ignore[no-untyped-call]
            name = f"{worker.hostname}:{worker.pid}"
            assert samples(url)["trainer_worker_busy", name] == 0
            for _ in range(2):
                job, _ = worker.dequeue_job_and_maintain_ttl(timeout=1)  # type: ignore[misc]
                execution = worker.prepare_execution(job)
                busy = samples(url)["trainer_worker_busy", name]
                worker.perform_job(job, queue, execution)
                assert busy == 1
            after = samples(url)
            assert after["trainer_worker_jobs_total", "finished", name] == 1
            assert after["trainer_worker_jobs_total", "failed", name] == 1
            assert after["trainer_worker_seconds_total", name] > 0


def samples(url: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_memory_of_redis_and_space_on_the_volume_are_measured(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        settings = TrainerSettings(data_dir=tmp_path, redis_url=server.url)
        with serving(create_trainer(settings)) as url:
            before = gauges(url)
            assert "trainer_redis_memory_limit_bytes" not in before
            server.client.config_set("maxmemory", 64_000_000)
            server.client.set("large", b"x" * 4_000_000)
            after = gauges(url)
    grown = after["trainer_redis_memory_bytes"] - before["trainer_redis_memory_bytes"]
    assert 3_900_000 <= grown < 8_000_000  # Redis frees buffers of connections, 30 kB here, when it likes
    assert after["trainer_redis_memory_limit_bytes"] == 64_000_000
    assert after["trainer_volume_size_bytes"] == shutil.disk_usage(tmp_path).total
    assert 0 < after["trainer_volume_free_bytes"] <= after["trainer_volume_size_bytes"]


def test_metrics_are_answered_without_redis(tmp_path: Path) -> None:
    settings = TrainerSettings(data_dir=tmp_path / "data", redis_url="redis://127.0.0.1:1/0")
    with serving(create_trainer(settings)) as url:
        answer = httpx.get(f"{url}/metrics")
        assert answer.status_code == 200
        assert "http_requests_total" in answer.text
        assert queue_metrics(url) == {}
