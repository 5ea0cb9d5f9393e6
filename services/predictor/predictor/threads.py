"""Threads for work that takes seconds, with a short queue: what does not fit is refused at once."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from agegender.errors import busy

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class BoundedThreads:
    """At most `threads` calls run and `waiting` wait. One that is cancelled while it waits never runs."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threads + waiting

    async def run(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """What `function` returns or raises. Raises ``busy`` 429 where too many wait."""
        if not self._free:
            raise busy()
        self._free -= 1
        try:
            return await asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))
        finally:
            self._free += 1

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
