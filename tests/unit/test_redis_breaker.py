"""A Redis that fails is left alone for a while, and its errors reach nobody."""

import asyncio
import time

import pytest
from agegender_service.redis_breaker import RedisBreaker
from prometheus_client import CollectorRegistry, Counter
from redis.exceptions import ConnectionError as RedisGone


@pytest.fixture
def errors() -> Counter:
    return Counter("errors", "Failed calls", registry=CollectorRegistry())


async def test_breaker_is_open_for_a_while_after_a_failure(
    errors: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker, result = RedisBreaker("test", errors), "default"
    async with breaker.guard():
        raise RedisGone
    assert breaker.is_open
    monkeypatch.setattr("agegender_service.redis_breaker._PAUSE", 0.05)
    async with breaker.guard():
        raise RedisGone
    await asyncio.sleep(0.06)
    assert not breaker.is_open
    async with breaker.guard():
        result = "read"
    assert result == "read"
    assert not breaker.is_open
    assert errors.collect()[0].samples[0].value == 2


async def test_calls_that_take_too_long_are_ended(errors: Counter) -> None:
    breaker, started = RedisBreaker("test", errors, timeout=0.02), time.monotonic()
    async with breaker.guard():
        await asyncio.sleep(10)
    assert time.monotonic() - started < 5
    assert breaker.is_open


async def test_cancelled_request_does_not_open_the_breaker(errors: Counter) -> None:
    breaker = RedisBreaker("test", errors, timeout=10)

    async def read() -> None:
        async with breaker.guard():
            await asyncio.sleep(10)

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not breaker.is_open
