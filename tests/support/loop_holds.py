"""How long callbacks hold an event loop."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Holds:
    """By the servers of this process that run on asyncio's own loop; seconds of CPU, not of a clock."""

    callbacks: list[float] = field(default_factory=list)
    whole: float = 0.0

    @property
    def longest_share(self) -> float:
        """The longest callback's share of all that the process computed meanwhile."""
        return max(self.callbacks) / self.whole


@contextmanager
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Holds]:
    holds, run = Holds(), asyncio.Handle._run

    def timed(handle: Any) -> None:
        started = time.thread_time()
        run(handle)
        holds.callbacks.append(time.thread_time() - started)

    with monkeypatch.context() as patches:
        patches.setattr(asyncio.Handle, "_run", timed)
        gc.collect()
        gc.disable()  # it runs wherever it happens to be due
        started = time.process_time()
        try:
            yield holds
        finally:
            holds.whole = time.process_time() - started
            gc.enable()
