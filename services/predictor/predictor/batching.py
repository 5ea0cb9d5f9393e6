"""Faces of concurrent requests go through the heads together.

A batch starts at once when a thread is free; what arrives while all are busy makes up the next batch. So
an idle service never waits, and a busy one waits as long as one batch takes: a few milliseconds. What
nobody waits for any more is not begun, and Monte-Carlo dropout ends with its round.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from agegender.errors import busy
from agegender.heads.head import over_years

from predictor.metrics import BATCH_FACES
from predictor.registry import Heads
from predictor.threads import BoundedThreads

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Probabilities:
    """Calibrated: age [faces, 101] over years, gender [faces, 2]; and the seconds it took."""

    age: Array
    gender: Array
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(frozen=True)
class _Waiting:
    embeddings: Array
    future: asyncio.Future[Probabilities]
    since: float


class HeadBatches:
    """Runs heads in `threads` threads, at most `max_faces` faces at a time (one request is never split).

    Parameters
    ----------
    max_waiting_faces : of all requests that wait for a thread; one request alone may have more.
    max_waiting : requests that wait for Monte-Carlo dropout, which has one thread.
    """

    def __init__(
        self, threads: int, max_faces: int, *, max_waiting_faces: int = 4096, max_waiting: int = 32
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="heads")
        self._slow = BoundedThreads("mc-dropout", 1, max_waiting)
        self._free = threads
        self._max_faces = max_faces
        self._max_waiting_faces = max_waiting_faces
        self._waiting_faces = 0
        self._waiting: dict[Heads, list[_Waiting]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def ensemble(self, heads: Heads, embeddings: Array) -> Probabilities:
        """By the mean over each bank's members. embeddings : [faces, dimension]. Raises ``busy`` 429."""
        if self._waiting and self._waiting_faces + len(embeddings) > self._max_waiting_faces:
            raise busy()
        waiting = _Waiting(embeddings, asyncio.get_running_loop().create_future(), time.perf_counter())
        self._waiting.setdefault(heads, []).append(waiting)
        self._waiting_faces += len(embeddings)
        self._start()
        return await waiting.future

    async def mc_dropout(self, heads: Heads, embeddings: Array, passes: int) -> Probabilities:
        """By Monte-Carlo dropout, unbatched: the masks, and so the answer, would depend on the neighbours.

        Raises ``busy`` 429.
        """
        since = time.perf_counter()
        left = threading.Event()
        try:
            return await self._slow.run(_mc_dropout, heads, embeddings, passes, since, left)
        finally:
            left.set()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._slow.close()

    def _start(self) -> None:
        while self._free and self._waiting:
            heads = next(iter(self._waiting))
            batch = self._take(heads)
            self._free -= 1
            task = asyncio.create_task(self._run(heads, batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _take(self, heads: Heads) -> list[_Waiting]:
        waiting = self._waiting[heads]
        faces, count = 0, 0
        for request in waiting:
            faces += len(request.embeddings)
            if count and faces > self._max_faces:
                break
            count += 1
        batch, rest = waiting[:count], waiting[count:]
        self._waiting_faces -= sum(len(request.embeddings) for request in batch)
        del self._waiting[heads]
        if rest:
            self._waiting[heads] = rest  # behind those who wait for other heads
        return batch

    async def _run(self, heads: Heads, batch: Sequence[_Waiting]) -> None:
        batch = [request for request in batch if not request.future.done()]  # a client may have hung up
        try:
            if batch:
                started = time.perf_counter()
                embeddings = np.concatenate([request.embeddings for request in batch])
                answered = await asyncio.get_running_loop().run_in_executor(
                    self._pool, _ensemble, heads, embeddings
                )
                _hand_out(batch, answered, started)
        except Exception as error:
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(error)
        finally:
            self._free += 1
            self._start()


def _hand_out(batch: Sequence[_Waiting], answered: Probabilities, started: float) -> None:
    seconds = time.perf_counter() - started
    first = 0
    for request in batch:
        rows = slice(first, first + len(request.embeddings))
        first = rows.stop
        if not request.future.done():
            request.future.set_result(
                Probabilities(answered.age[rows], answered.gender[rows], started - request.since, seconds)
            )


def _ensemble(heads: Heads, embeddings: Array) -> Probabilities:
    BATCH_FACES.observe(len(embeddings))
    age, gender = (head.probabilities(embeddings) for head in (heads.age, heads.gender))
    return Probabilities(over_years(age, heads.age.manifest.classes), gender)


def _mc_dropout(
    heads: Heads, embeddings: Array, passes: int, since: float, left: threading.Event
) -> Probabilities:
    started = time.perf_counter()
    age, gender = (
        head.probabilities_mc_dropout(embeddings, passes, seed=0, unwanted=left.is_set)
        for head in (heads.age, heads.gender)
    )
    return Probabilities(
        over_years(age, heads.age.manifest.classes), gender, started - since, time.perf_counter() - started
    )
