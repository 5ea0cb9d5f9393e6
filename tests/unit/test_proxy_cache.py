"""The proxy's cache in a real Redis: quicker with it, right without it."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from agegender.faces import FacesAnswer
from agegender.spaces import Space
from agegender.web.timings import stage_seconds
from embedder_double import EmbedderDouble, faces_of
from proxies import picture, post, proxy
from redis_server import RedisServer, redis_server
from serving import until


@pytest.fixture
def double() -> Iterator[EmbedderDouble]:
    with EmbedderDouble().served() as one:
        yield one


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def cache_errors(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("proxy_cache_errors_total")]
    return float(line.split()[-1])


def test_the_same_picture_is_embedded_once(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        first, again = post(client, picture()), post(client, picture())
        assert first.json() == again.json()
        assert double.batches == [1]
        spent = stage_seconds(again.headers["Server-Timing"])
        assert spent == {"queue": 0, "decode": 0, "detect": 0, "embed": 0}
        mixed = post(client, picture(1), picture(), picture(2))
        assert double.batches == [1, 2]
        answer = FacesAnswer.model_validate_json(mixed.content)
        assert answer.images == [faces_of(picture(seed)) for seed in (1, 0, 2)]


def test_entries_hold_no_picture_and_end(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
    (key,) = redis.client.keys()
    assert 0 < redis.client.ttl(key) <= 60
    entry = redis.client.get(key)
    assert isinstance(entry, bytes) and picture() not in entry


def test_a_lifetime_of_0_turns_the_cache_off(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=0) as client:
        post(client, picture())
        post(client, picture())
    assert double.batches == [1, 1]
    assert redis.client.keys() == []


def test_another_space_has_its_own_entries(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
        double.space = Space(id="other-1", dimension=192)
        until(lambda: client.get("/info").json()["space"]["id"] == "other-1", "the space is followed")
        answer = post(client, picture()).json()
        assert answer["space"]["id"] == "other-1"
        assert len(answer["images"][0]["faces"][0]["embedding"]) == 192


def test_a_damaged_picture_is_not_remembered(double: EmbedderDouble, redis: RedisServer) -> None:
    double.broken = lambda image: True
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        assert post(client, picture()).status_code == 422
        assert redis.client.keys() == []


def test_a_damaged_entry_is_no_hit(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
        (key,) = redis.client.keys()
        for garbage in (b"", b"{}", b"\xff\xfe", b'{"width":1,"height":1,"faces":[{"bbox":[1]}]}'):
            redis.client.set(key, garbage)
            assert post(client, picture()).json()["images"][0] == faces_of(picture()).model_dump(mode="json")


def test_faces_known_are_answered_while_no_embedder_is_there(redis: RedisServer) -> None:
    lost = EmbedderDouble()
    with lost.served(), proxy(lost, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
        lost.fault = "not ready"
        until(lambda: client.get("/health/ready").status_code == 503, "the embedder is lost")
        assert post(client, picture()).status_code == 200
        assert post(client, picture(1)).status_code == 503


def test_a_redis_that_is_gone_is_no_error(double: EmbedderDouble) -> None:
    with proxy(double, redis_url="redis://127.0.0.1:9/0", cache_ttl=60) as client:
        assert [post(client, picture()).status_code for _ in range(3)] == [200] * 3


def test_a_redis_that_hangs_costs_little(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60, cache_timeout=0.1) as client:
        post(client, picture())
        redis.hang()
        before = cache_errors(client)
        assert [post(client, picture(seed)).status_code for seed in range(20)] == [200] * 20
        # One wait of 0.1 s, after which Redis is left alone for five seconds.
        assert 1 <= cache_errors(client) - before <= 2


def test_a_redis_that_is_full_is_no_error(double: EmbedderDouble, tmp_path: Path) -> None:
    with (
        redis_server(tmp_path, "--maxmemory-policy", "noeviction") as full,
        proxy(double, redis_url=full.url, cache_ttl=60) as client,
    ):
        post(client, picture())
        full.client.config_set("maxmemory", "1kb")
        assert [post(client, picture(seed)).status_code for seed in range(5)] == [200] * 5
        assert len(double.batches) == 5  # what was written before is still read
        assert len(full.client.keys()) == 1


def test_a_redis_that_comes_back_without_its_data_is_used_again(
    double: EmbedderDouble, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedder_proxy.cache._PAUSE", 0.1)
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
        redis.client.flushall()
        redis.client.client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.2)
        post(client, picture())
        time.sleep(0.2)
        post(client, picture())
        until(lambda: bool(redis.client.keys()), "entries are written again")
        batches = len(double.batches)
        assert post(client, picture()).status_code == 200
        assert len(double.batches) == batches


def test_a_hit_does_not_touch_the_embedder_however_slow_that_is(
    double: EmbedderDouble, redis: RedisServer
) -> None:
    double.seconds, double.faces = 0.3, 6
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
        seconds = []
        for _ in range(10):
            started = time.perf_counter()
            post(client, picture())
            seconds.append(time.perf_counter() - started)
        assert double.batches == [1]
        assert statistics.median(seconds) < 0.3
