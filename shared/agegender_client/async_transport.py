"""The connections of the client for asyncio. transport.py is generated from this file."""

import json
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from agegender.errors import Problem, forget_frames
from agegender.http_clients import direct_options, release, user_options
from httpx_sse import aconnect_sse
from pydantic import ValidationError
from tenacity import AsyncRetrying

from agegender_client import calls
from agegender_client.calls import Call
from agegender_client.settings import (
    ClientSettings,
    bad_answer,
    problem_of,
    problem_of_transport,
    retry_options,
)

Answer = TypeVar("Answer")


class AsyncTransport:
    """Send calls to the three services, and read streams of events.

    settings : by default those of the environment. Invalid ones raise the problem ``bad-settings``.
    """

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self._settings = ClientSettings.checked(settings)
        certificates = direct_options()["verify"]
        self._https: dict[calls.Service, httpx.AsyncClient] = {
            service: httpx.AsyncClient(
                base_url=url,
                headers=self._settings.headers(url),
                timeout=self._settings.timeout,
                **user_options(url, certificates),
            )
            for service, url in self._settings.urls.items()
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for http in self._https.values():
            await http.aclose()

    async def _send(self, call: Call[Answer]) -> Answer:
        retrying = AsyncRetrying(**retry_options(call.repeatable, self._settings))
        answer: Answer | Problem = await retrying(self._send_once, call)
        if not isinstance(answer, Problem):
            return answer
        try:
            raise answer
        finally:
            del answer  # its traceback holds this frame, and through it would hold itself and the call

    async def _send_once(self, call: Call[Answer]) -> Answer | Problem:
        """Return the answer, or its problem: tenacity keeps what is raised, with its frames and the call."""
        http = self._https[call.service]
        try:
            response = await http.send(call.request(http))
        except httpx.TransportError as error:
            forget_frames(error)
            # The error itself holds the request.
            return problem_of_transport(error, str(http.base_url)).because_of(type(error)(str(error)))
        release(response)
        if not response.is_success:
            return problem_of(response, str(http.base_url))
        try:
            return call.read(response)
        except ValidationError as error:
            return bad_answer(response, call.service).because_of(error)

    async def _events(self, path: str) -> AsyncIterator[Any]:
        http = self._https["trainer"]
        no_read_limit = httpx.Timeout(self._settings.timeout, read=None)
        try:
            async with aconnect_sse(http, "GET", path, timeout=no_read_limit) as source:
                if not source.response.is_success:
                    await source.response.aread()
                    raise problem_of(source.response, str(http.base_url))
                async for event in source.aiter_sse():
                    if event.data:
                        yield json.loads(event.data)
        except httpx.TransportError as error:
            raise problem_of_transport(error, str(http.base_url)) from error
