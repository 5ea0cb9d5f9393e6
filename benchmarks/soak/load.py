"""Send a mix: as fast as answers come back, to see what the system can do; or at a rate, come what may."""

import asyncio
import time
from dataclasses import dataclass

import httpx

from benchmarks.soak.mix import Mix, Request

_TIMEOUT = 90.0  # later than any deadline of the services
_CLIENTS = 8


@dataclass(frozen=True)
class Answer:
    """status : 0 where the connection failed. right : as wanted. refused : 429 with Retry-After."""

    kind: str
    seconds: float
    status: int
    right: bool
    refused: bool
    told: str = ""


def capacity(url: str, mix: Mix, seconds: float) -> float:
    """Answers a second to a few clients that ask without a pause."""
    return asyncio.run(_closed(url, mix, seconds))


def at_rate(url: str, mix: Mix, rate: float, seconds: float) -> list[Answer]:
    """The answers to `rate` requests a second, sent on time whether or not earlier ones were answered."""
    return asyncio.run(_open(url, mix, rate, seconds))


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, keepalive_expiry=5)
    return httpx.AsyncClient(base_url=url, timeout=_TIMEOUT, limits=limits, trust_env=False)


async def _closed(url: str, mix: Mix, seconds: float) -> float:
    answered = 0
    end = time.monotonic() + seconds

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal answered
        while time.monotonic() < end:
            answer = await _answer(client, mix.draw())
            answered += answer.right and time.monotonic() < end

    async with _client(url) as client:
        await asyncio.gather(*(ask(client) for _ in range(_CLIENTS)))
    return answered / seconds


async def _open(url: str, mix: Mix, rate: float, seconds: float) -> list[Answer]:
    started = time.monotonic()
    async with _client(url) as client, asyncio.TaskGroup() as group:
        tasks = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            tasks.append(group.create_task(_answer(client, mix.draw())))
    return [task.result() for task in tasks]


async def _answer(client: httpx.AsyncClient, request: Request) -> Answer:
    began = time.monotonic()
    try:
        response = await client.request(
            request.method, request.path, content=request.content, headers=request.headers
        )
    except httpx.TransportError as error:
        return Answer(request.kind, time.monotonic() - began, 0, False, False, type(error).__name__)
    seconds, status = time.monotonic() - began, response.status_code
    right = status in request.right
    refused = status == 429 and "retry-after" in response.headers
    told = "" if right else _slug(response)
    return Answer(request.kind, seconds, status, right, refused, told)


def _slug(response: httpx.Response) -> str:
    """The kind of its problem."""
    try:
        return str(response.json()["type"]).rsplit(":", 1)[-1]
    except (ValueError, KeyError, TypeError):
        return "no problem document"
