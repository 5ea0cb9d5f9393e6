"""Bodies of services that take only small JSON: read whole, within a limit and a time, before any route."""

from agegender.errors import Problem
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agegender_service.admission import read_in_time
from agegender_service.problems import problem_response
from agegender_service.uploads import read_body


class SmallBodies:
    """ASGI middleware. FastAPI itself reads a JSON body of any length, for as long as it takes."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        try:
            body = await read_in_time(read_body(Request(scope, receive), self._max_bytes), self._seconds)
        except Problem as problem:
            await problem_response(problem)(scope, receive, send)
            return
        told = False

        async def read_again() -> Message:
            nonlocal told
            if told:
                return await receive()  # whether the client hangs up
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, read_again, send)
