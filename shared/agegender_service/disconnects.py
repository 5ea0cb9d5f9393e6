"""Work that nobody waits for any more stops costing."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from agegender.errors import client_closed_request
from fastapi import Request

from agegender_service.deadlines import Deadline

Answer = TypeVar("Answer")


async def while_awaited(
    request: Request, work: Coroutine[Any, Any, Answer], deadline: Deadline | None = None
) -> Answer:
    """The result of `work`, which is cancelled where the client hangs up or the deadline passes.

    The body must have been read. Work that ends by its own deadline needs none here.
    Raises `Problem` ``client-closed-request`` 499 and ``deadline-exceeded`` 504.
    """
    patience = None if deadline is None else deadline.remaining
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if deadline is None or watching.done():
            raise client_closed_request()
        raise deadline.exceeded()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
