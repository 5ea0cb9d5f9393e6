"""How long callbacks hold an event loop."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, TypeVarTuple, Unpack

TIMED = f"{__name__}:TimedLoop"  # uvicorn's option `loop`
Given = TypeVarTuple("Given")
_callbacks: list[float] = []


class TimedLoop(asyncio.SelectorEventLoop):
    """Times what tasks, futures and other threads call on it: all that an application computes there."""

    def call_soon(
        self,
        callback: Callable[[Unpack[Given]], object],
        *args: Unpack[Given],
        context: Context | None = None,
    ) -> asyncio.Handle:
        return super().call_soon(_timed, callback, *args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Given]], object],
        *args: Unpack[Given],
        context: Context | None = None,
    ) -> asyncio.Handle:
        return super().call_soon_threadsafe(_timed, callback, *args, context=context)


def _timed(callback: Callable[..., object], *args: Any) -> None:
    started = time.thread_time()
    try:
        callback(*args)
    finally:
        _callbacks.append(time.thread_time() - started)


@dataclass
class Holds:
    """Seconds of CPU, not of a clock. whole : of the process, servers and client."""

    callbacks: list[float] = field(default_factory=list)
    whole: float = 0.0

    @property
    def longest_share(self) -> float:
        """The longest callback's share of all that the process computed meanwhile."""
        return max(self.callbacks) / self.whole


@contextmanager
def measured() -> Iterator[Holds]:
    """Measure the servers of this process that run on a `TIMED` loop."""
    holds = Holds()
    gc.collect()
    gc.disable()  # it runs wherever it happens to be due
    _callbacks.clear()
    started = time.process_time()
    try:
        yield holds
    finally:
        holds.whole = time.process_time() - started
        holds.callbacks = list(_callbacks)
        gc.enable()
