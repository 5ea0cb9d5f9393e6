"""Measure how long callbacks hold an event loop."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import TypeVar, TypeVarTuple

TIMED = f"{__name__}:TimedLoop"  # uvicorn's option `loop`
Given = TypeVarTuple("Given")
Answer = TypeVar("Answer")


class TimedLoop(asyncio.SelectorEventLoop):
    """Times what tasks, futures and other threads call on it: all that an application computes there."""

    def call_soon(
        self,
        callback: Callable[[*Given], object],
        *args: *Given,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return super().call_soon(_timed, callback, *args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Given], object],
        *args: *Given,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return super().call_soon_threadsafe(_timed, callback, *args, context=context)


@dataclass
class Holds:
    """Seconds of CPU, not of a clock. whole : of the process, servers and client."""

    callbacks: list[float] = field(default_factory=list)
    whole: float = 0.0

    @property
    def longest_share(self) -> float:
        """The longest callback's share of all that the process computed meanwhile."""
        return max(self.callbacks) / self.whole


_now = Holds()


def _timed(callback: Callable[[*Given], object], *args: *Given) -> None:
    started = time.thread_time()
    try:
        callback(*args)
    finally:
        _now.callbacks.append(time.thread_time() - started)


def longest_share(send: Callable[[], Answer], requests: int = 3) -> tuple[float, Answer]:
    """Send a request several times; return the longest callback's smallest share, and the last answer."""
    shares = []
    for _ in range(requests):
        with _measured() as holds:
            answer = send()
        shares.append(holds.longest_share)
    return min(shares), answer


@contextmanager
def _measured() -> Iterator[Holds]:
    """Measure the servers of this process that run on a `TIMED` loop.

    Callbacks that end after the block count as well: an answer is sent before its callback has ended.
    """
    global _now
    holds = _now = Holds()
    gc.collect()
    gc.disable()  # it runs wherever it happens to be due
    started = time.process_time()
    try:
        yield holds
    finally:
        holds.whole = time.process_time() - started
        gc.enable()
