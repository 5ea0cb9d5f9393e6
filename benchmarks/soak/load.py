"""Send traffic: in a closed loop to measure the capacity, or at a fixed rate (open loop)."""

import asyncio
import time
from dataclasses import dataclass

import httpx

from benchmarks.soak.mix import Mix, Request

_TIMEOUT = 90.0  # longer than all deadlines of the services
_CLIENTS = 8


@dataclass(frozen=True)
class Answer:
    """status : 0 if the connection failed. expected : an expected status. refused : 429 with Retry-After."""

    kind: str
    seconds: float
    status: int
    expected: bool
    refused: bool
    problem: str = ""


def capacity(url: str, mix: Mix, seconds: float) -> float:
    """Return the responses per second to a few clients without pauses."""
    return asyncio.run(_closed(url, mix, seconds))


def at_rate(url: str, mix: Mix, rate: float, seconds: float) -> list[Answer]:
    """Send `rate` requests per second, independent of earlier responses, and return the responses."""
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
            answered += answer.expected and time.monotonic() < end

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
    expected = status in request.expected
    refused = status == 429 and "retry-after" in response.headers
    problem = "" if expected else _slug(response)
    return Answer(request.kind, seconds, status, expected, refused, problem)


def _slug(response: httpx.Response) -> str:
    """Return the slug of a response's problem."""
    try:
        return str(response.json()["type"]).rsplit(":", 1)[-1]
    except (ValueError, KeyError, TypeError):
        return "no problem document"
