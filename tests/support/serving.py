"""Serve an ASGI application on a free port, in a thread of the test's process."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import uvicorn

from tools import machine


@contextmanager
def serving(app: Any, port: int = 0, **options: Any) -> Iterator[str]:
    """The URL at which `app` answers until the block ends; `options` are uvicorn's."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, "the server starts")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def free_port() -> int:
    """Return a port that nothing listens on, and that the kernel gives to no connection meanwhile."""
    return machine.free_port()


def until(holds: Any, what: str, seconds: float = 60, every: float = 0.25) -> None:
    """Wait until `holds()`; fail with `what` after that many seconds.

    every : the longest pause between two questions, in seconds; the first pauses are shorter.
    """
    end, pause = time.monotonic() + seconds, 0.005
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(pause)
        pause = min(2 * pause, every)


def hang_up_once(begun: Callable[[], Any], what: str, url: str, **request: Any) -> None:
    """Send a POST, wait until the other side has begun to work on it, and hang up.

    A client's own time limit would not do: on a busy machine it ends before the work begins.
    """

    async def client() -> None:
        async with httpx.AsyncClient(timeout=20) as http:
            sent = asyncio.create_task(http.post(url, **request))
            await asyncio.to_thread(until, begun, what)
            assert not sent.done(), f"answered before the client hung up: {sent}"
            sent.cancel()
            with suppress(asyncio.CancelledError):
                await sent

    asyncio.run(client())
