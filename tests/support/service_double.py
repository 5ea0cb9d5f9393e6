"""A service that answers what the test has laid out, one answer a request, and notes what it was asked."""

import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response


class Service:
    def __init__(self) -> None:
        self.answers: list[Callable[[], Response]] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.queries: list[str] = []

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.api_route("/{path:path}", methods=["GET", "POST", "PATCH", "DELETE"])
        async def anything(path: str, request: Request) -> Response:
            body = await request.body()
            self.queries.append(request.url.query)
            self.requests.append((request.method, f"/{path}", dict(request.headers), body))
            return self.answers.pop(0)()

        return app

    def will_answer(self, *answers: Any) -> None:
        self.answers += [answer if callable(answer) else json_answer(answer) for answer in answers]


def json_answer(content: Any, status: int = 200, **headers: str) -> Callable[[], Response]:
    return lambda: Response(json.dumps(content), status, headers, media_type="application/json")
