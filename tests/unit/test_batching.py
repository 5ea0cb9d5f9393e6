"""Requests that wait for the same computation share it, and only those that are still awaited run."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from agegender.errors import Problem
from agegender_service.batching import Batcher, Queued


class Run:
    """Doubles numbers, one batch at a time and only when released; keeps the batches of each key."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.started, self.released = threading.Event(), threading.Event()
        self.defect: Exception = ValueError("defect")

    def __call__(self, key: str, batch: Sequence[Queued[int, int]]) -> list[int | Exception]:
        self.batches.append((key, [request.item for request in batch]))
        self.started.set()
        self.released.wait(10)
        if any(request.item == 99 for request in batch):
            raise self.defect
        return [ValueError("bad") if request.item < 0 else 2 * request.item for request in batch]


class Waiting:
    """A batcher whose only worker is busy with the item 0, so that all other items wait."""

    def __init__(self, **options: Any) -> None:
        self.run = Run()
        self.batcher: Batcher[str, int, int] = Batcher(self.run, name="test", **options)
        self.tasks: list[asyncio.Task[int]] = []

    async def __aenter__(self) -> "Waiting":
        await self.submit(0)
        await asyncio.to_thread(self.run.started.wait, 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.run.released.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.batcher.close()

    async def submit(self, *items: int, key: str = "a") -> None:
        self.tasks += [asyncio.create_task(self.batcher.submit(key, item)) for item in items]
        await asyncio.sleep(0)

    async def results(self) -> list[int | BaseException]:
        self.run.released.set()
        return await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_waiting_requests_share_a_run_up_to_the_maximum_cost() -> None:
    async with Waiting(cost=lambda item: item, max_cost=5) as waiting:
        await waiting.submit(2, 3, 4, 9)
        assert await waiting.results() == [0, 4, 6, 8, 18]
    assert [batch for _, batch in waiting.run.batches] == [[0], [2, 3], [4], [9]]


async def test_keys_take_turns() -> None:
    async with Waiting(max_cost=1) as waiting:
        await waiting.submit(1, 2)
        await waiting.submit(3, 4, key="b")
        await waiting.results()
    assert waiting.run.batches == [("a", [0]), ("a", [1]), ("b", [3]), ("a", [2]), ("b", [4])]


async def test_request_whose_caller_left_never_runs_and_a_run_can_tell() -> None:
    async with Waiting(max_cost=9) as waiting:
        await waiting.submit(1, 2)
        waiting.tasks[1].cancel()
        results = await waiting.results()
    assert isinstance(results[1], asyncio.CancelledError) and results[2] == 4
    assert [batch for _, batch in waiting.run.batches] == [[0], [2]]


async def test_run_sees_that_its_caller_left() -> None:
    abandoned: list[bool] = []
    started, go_on = threading.Event(), threading.Event()

    def run(_: None, batch: Sequence[Queued[int, int]]) -> list[int]:
        abandoned.append(batch[0].abandoned)
        started.set()
        go_on.wait(10)
        abandoned.append(batch[0].abandoned)
        return [0]

    batcher: Batcher[None, int, int] = Batcher(run, name="test")
    task = asyncio.create_task(batcher.submit(None, 1))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    go_on.set()
    batcher.close()
    assert abandoned == [False, True]


@pytest.mark.parametrize(
    ("max_waiting", "accepted", "refused"), [(0, [], 1), (1, [1], 1), (3, [2, 1], 1), (3, [7], 1)]
)
async def test_more_than_may_wait_is_refused(max_waiting: int, accepted: list[int], refused: int) -> None:
    async with Waiting(cost=lambda item: item, max_waiting=max_waiting) as waiting:
        await waiting.submit(*accepted)
        with pytest.raises(Problem) as caught:
            await waiting.batcher.submit("a", refused)
        assert (caught.value.slug, caught.value.status) == ("busy", 429)
        assert await waiting.results() == [2 * item for item in [0, *accepted]]
        assert await waiting.batcher.submit("a", refused) == 2 * refused


async def test_failure_of_one_request_or_of_a_run_reaches_those_concerned() -> None:
    async with Waiting(max_cost=2) as waiting:
        await waiting.submit(-1, 1, 99, 2, 3)
        results = await waiting.results()
    assert [str(result) for result in results] == ["0", "bad", "2", "defect", "defect", "6"]


async def test_requests_of_a_failed_run_raise_exceptions_of_their_own() -> None:
    problem = Problem("broken", 500, "on purpose", retry_after=3, part="a")
    async with Waiting(max_cost=2) as waiting:
        waiting.run.defect = problem
        await waiting.submit(99, 2)
        _, *raised = await waiting.results()
    assert all(isinstance(one, Problem) and vars(one) == vars(problem) for one in raised)
    assert [str(one) for one in raised] == ["on purpose"] * 2
    assert [one.__cause__ for one in raised if isinstance(one, Problem)] == [problem, problem]
    assert len({id(one) for one in [*raised, problem]}) == 3


async def test_close_cancels_what_waits() -> None:
    waiting = Waiting()
    await waiting.__aenter__()
    await waiting.submit(1)
    threading.Timer(0.1, waiting.run.released.set).start()
    waiting.batcher.close()
    first, second = await asyncio.gather(*waiting.tasks, return_exceptions=True)
    assert first == 0 and isinstance(second, asyncio.CancelledError)
