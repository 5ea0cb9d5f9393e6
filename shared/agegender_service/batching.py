"""Queues of work for threads; requests that wait for the same computation share one run (micro-batching).

A run starts as soon as a worker thread is free; what arrives meanwhile makes up the next batch. An idle
service never waits, and a busy one waits as long as one batch takes.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar, cast

from agegender.errors import busy

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass(eq=False)
class Queued(Generic[Item, Result]):
    """One request.

    queue_seconds : time between its arrival and the start of its batch.
    abandoned : whether its caller left; a run may read it at any time, from its thread.
    """

    item: Item
    cost: int
    future: asyncio.Future[Result]
    arrived_at: float
    queue_seconds: float = 0.0
    abandoned: bool = False


class Batcher(Generic[Key, Item, Result]):
    """Queue requests and run them in batches, in worker threads.

    Requests are taken in the order of arrival, per key; keys take turns. A request whose caller left is
    dropped from the queue, and one request is never split.

    Parameters
    ----------
    run : computes a batch of one key in a worker thread, and returns a result or an exception for each of
        its requests, in order. What it raises reaches all of them.
    cost : of an item, such as its number of faces.
    max_cost : of a batch; a single request may cost more.
    max_waiting : cost of the requests that may wait, beyond which ``busy`` 429 is raised; a single request
        may cost more. None for no bound.
    workers : batches that run at the same time, each in a thread of its own.
    """

    def __init__(
        self,
        run: Callable[[Key, Sequence[Queued[Item, Result]]], Sequence[Result | Exception]],
        *,
        name: str,
        cost: Callable[[Item], int] = lambda item: 1,
        max_cost: int = 1,
        max_waiting: int | None = None,
        workers: int = 1,
    ) -> None:
        self._run = run
        self._cost = cost
        self._max_cost = max_cost
        self._max_waiting = max_waiting
        self._free = workers
        self._queues: dict[Key, deque[Queued[Item, Result]]] = {}
        self._waiting_cost = 0
        self._closed = False
        self.executor = ThreadPoolExecutor(workers, thread_name_prefix=name)

    async def submit(self, key: Key, item: Item) -> Result:
        """Return the result for an item. Raises ``busy`` 429 and what `run` raises or returns for it."""
        loop = asyncio.get_running_loop()
        cost = self._cost(item)
        if not self._free and self._is_full(cost):
            raise busy()
        request: Queued[Item, Result] = Queued(item, cost, loop.create_future(), loop.time())
        self._queues.setdefault(key, deque()).append(request)
        self._waiting_cost += cost
        self._start()
        try:
            return await request.future
        finally:
            request.abandoned = True

    def close(self) -> None:
        """Wait for the batches that run; requests that wait are cancelled."""
        self._closed = True
        self.executor.shutdown(cancel_futures=True)
        for queue in self._queues.values():
            for request in queue:
                request.future.cancel()

    def _is_full(self, cost: int) -> bool:
        if self._max_waiting is None:
            return False
        return self._waiting_cost + min(cost, max(1, self._max_waiting)) > self._max_waiting

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        while self._free and self._queues and not self._closed:
            key = next(iter(self._queues))
            batch = self._take(key)
            if not batch:
                continue
            self._free -= 1
            for request in batch:
                request.queue_seconds = loop.time() - request.arrived_at
            work = loop.run_in_executor(self.executor, self._run, key, batch)
            work.add_done_callback(partial(self._finish, batch))

    def _take(self, key: Key) -> list[Queued[Item, Result]]:
        queue = self._queues.pop(key)
        batch: list[Queued[Item, Result]] = []
        cost = 0
        while queue:
            request = queue[0]
            if not request.future.done():  # done only if its caller left
                cost += request.cost
                if batch and cost > self._max_cost:
                    break
                batch.append(request)
            self._waiting_cost -= request.cost
            queue.popleft()
        if queue:
            self._queues[key] = queue  # behind the other keys
        return batch

    def _finish(
        self,
        batch: Sequence[Queued[Item, Result]],
        work: asyncio.Future[Sequence[Result | Exception]],
    ) -> None:
        self._free += 1
        if work.cancelled():
            for request in batch:
                request.future.cancel()
            return
        failure = work.exception()
        # Tasks that raise the same exception would change each other's traceback.
        results = work.result() if failure is None else [_copied(failure) for _ in batch]
        for request, result in zip(batch, results, strict=True):
            if request.future.done():
                continue
            if isinstance(result, BaseException):
                request.future.set_exception(result)
            else:
                request.future.set_result(result)
        self._start()


def _copied(failure: BaseException) -> BaseException:
    copied = type(failure).__new__(type(failure), *failure.args)
    vars(copied).update(vars(failure))
    copied.__cause__ = failure
    return copied


class BoundedThreads:
    """Run at most `threads` slow calls at a time while at most `waiting` wait."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._calls: Batcher[None, Callable[[], Any], Any] = Batcher(
            _run_call, name=name, max_waiting=waiting, workers=threads
        )

    async def run(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Return what `function` returns. Raises what it raises, and ``busy`` 429 if too many calls wait."""
        return cast(Result, await self._calls.submit(None, partial(function, *args, **kwargs)))

    def close(self) -> None:
        """Wait for the calls that run."""
        self._calls.close()


def _run_call(_: None, batch: Sequence[Queued[Callable[[], Any], Any]]) -> list[Any]:
    return [request.item() for request in batch]
