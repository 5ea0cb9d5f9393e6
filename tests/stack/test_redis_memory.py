"""The cache fills a Redis that also carries the queue: jobs continue, and the memory stays bounded."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from agegender.spaces import Space

from tests.support.embedder_double import EmbedderDouble
from tests.support.proxies import picture, post, proxy
from tests.support.redis_server import RedisServer, redis_server
from tests.support.serving import free_port, until
from tests.support.trainer_processes import REQUEST, Trainer
from tools.stack import ROOT, Stack

# Redis 6.2 allocates blocks of 10 MB while it rewrites its log. They must fit into the tenth that stays free.
MEGABYTE = 1024 * 1024
LIMIT = 160 * MEGABYTE
LARGE = Space(id="large-1", dimension=12000)  # 50 kB per face, which fill the cache with few requests
BATCH = 32


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    options = ("--appendonly", "yes", "--maxmemory", str(LIMIT), "--maxmemory-policy", "noeviction")
    with redis_server(tmp_path, *options) as server:
        yield server


def metric(client: httpx.Client, name: str) -> float:
    return float(re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.M)[1])  # type: ignore[index]


def fill(client: httpx.Client, batches: int, first: int = 0) -> int:
    """Ask for faces of images that differ; return the number of the next one."""
    for _ in range(batches):
        images = [picture(first + n, size=(16, 16)) for n in range(BATCH)]
        assert post(client, *images).status_code == 200
        first += BATCH
    return first


def refused(redis: RedisServer) -> int:
    """Return how many commands Redis refused for lack of memory."""
    errors = redis.client.info("errorstats")
    return int(errors.get("errorstat_OOM", {}).get("count", 0))


def memory_of_data(redis: RedisServer) -> int:
    """Return what Redis holds without its clients' buffers, whose sizes it renews once per second."""
    found: list[int] = []

    def unchanged() -> bool:
        found.append(int(redis.client.info("memory")["used_memory_dataset"]))
        # `until` pauses longer each time: the last six of eleven are more than a second apart.
        return len(found) > 10 and max(found[-6:]) - min(found[-6:]) < 16 * 1024

    until(unchanged, "Redis is at rest for a second", 30)
    return found[-1]


def test_a_full_cache_never_stops_a_job(redis: RedisServer, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, redis.url, free_port())
    double = EmbedderDouble(space=LARGE)
    try:
        trainer.start_api()
        trainer.start_worker()
        with double.served(), proxy(double, redis_url=redis.url, cache_ttl=3600, cache_timeout=20) as client:
            counted = ("proxy_cache_evictions_total", "proxy_cache_errors_total")
            before = [metric(client, name) for name in counted]  # of other tests in this process
            following = fill(client, 80)  # 2,560 faces: 130 MB, of which 80 fit
            experiment = trainer.create(REQUEST)
            while trainer.status(experiment)["state"] in ("queued", "running"):
                following = fill(client, 1, following)
            trainer.wait(experiment)
            assert refused(redis) == 0
            assert 0.4 * LIMIT < metric(client, "proxy_cache_bytes") <= 0.5 * LIMIT
            evictions, errors = (
                metric(client, name) - old for name, old in zip(counted, before, strict=True)
            )
            assert evictions > 900 and errors == 0
            asked = len(double.batches)
            fill(client, 1, following - BATCH)  # the newest are still there
            assert len(double.batches) == asked
    finally:
        trainer.stop()


def test_cached_faces_give_way_to_other_data(redis: RedisServer) -> None:
    double = EmbedderDouble(space=LARGE)
    with double.served(), proxy(double, redis_url=redis.url, cache_ttl=3600, cache_timeout=20) as client:
        following = fill(client, 55)
        before = metric(client, "proxy_cache_bytes")
        for number in range(100):
            redis.client.set(f"job {number}", b"x" * MEGABYTE)
            if number % 3 == 2:
                following = fill(client, 1, following)
        after = metric(client, "proxy_cache_bytes")
        assert before > 0.45 * LIMIT and 0 < after < 0.3 * LIMIT
        assert refused(redis) == 0


@pytest.mark.parametrize(("dimension", "kilobytes"), [(3600, 15), (512, 3)])
def test_memory_of_a_cached_face_is_what_the_docs_say(
    redis: RedisServer, dimension: int, kilobytes: int
) -> None:
    """The measured growth of Redis is what the proxy counts and docs/proxy.md states."""
    double = EmbedderDouble(space=Space(id=f"double-{dimension}", dimension=dimension))
    with double.served(), proxy(double, redis_url=redis.url, cache_ttl=3600, cache_timeout=20) as client:
        before = memory_of_data(redis)
        fill(client, 8)
        grown = memory_of_data(redis) - before
        counted = metric(client, "proxy_cache_bytes")
    faces = 8 * BATCH
    print(f"{dimension} numbers: {grown / faces:.0f} bytes per face, counted {counted / faces:.0f}")
    assert grown / faces == pytest.approx(1000 * kilobytes, rel=0.05)
    assert counted == pytest.approx(grown, rel=0.05)
    assert f"{kilobytes} kB" in (ROOT / "docs" / "proxy.md").read_text()


def test_every_way_of_running_bounds_redis(tmp_path: Path) -> None:
    """The cache takes half of `maxmemory`; without one it would not know what the container has."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]["command"][0]
    kubernetes = (ROOT / "deploy" / "kubernetes" / "redis.yaml").read_text()
    native = Stack(tmp_path, tmp_path)._redis_settings().read_text()
    for text in (compose, kubernetes, native):
        assert re.search(r"\bmaxmemory 512mb", text)
        assert re.search(r"\bmaxmemory-policy noeviction", text)
