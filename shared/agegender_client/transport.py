"""Connections of the blocking client. Generated from async_transport.py by `make reference`; do not edit."""

import json
import logging
import time
from collections.abc import Iterator
from time import sleep
from types import TracebackType
from typing import Self, TypeVar

import httpx
from agegender.errors import Problem, forget_frames
from agegender.http_clients import direct_options, release, user_options
from httpx_sse import connect_sse
from pydantic import ValidationError
from tenacity import Retrying

from agegender_client import calls
from agegender_client.calls import Call
from agegender_client.responses import Evaluation, Experiment, Extraction, Search, VideoRun
from agegender_client.settings import (
    ClientSettings,
    bad_answer,
    problem_of,
    problem_of_transport,
    retry_options,
    stopped_watching,
)

Answer = TypeVar("Answer")
Followed = TypeVar("Followed", Experiment, Search, Evaluation, VideoRun, Extraction)

_PASSING = {429, 502, 503, 504}  # statuses of a trainer, or a proxy before it, that restarts
RECONNECT_SECONDS = 300.0  # without any state of a watched run, after which the client stops watching
SILENCE_SECONDS = 60.0  # after which a stream counts as broken: the trainer sends a comment every 15 seconds
_PAUSES = 0.2, 5.0  # seconds before a stream is opened again, at first and at most

log = logging.getLogger(__name__)


class Transport:
    """Send calls to the three services, and read streams of events.

    settings : by default those of the environment. Invalid ones raise the problem ``bad-settings``.
    """

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self._settings = ClientSettings.checked(settings)
        certificates = direct_options()["verify"]
        self._https: dict[calls.Service, httpx.Client] = {
            service: httpx.Client(
                base_url=url,
                headers=self._settings.headers(url),
                timeout=self._settings.timeout,
                **user_options(url, certificates),
            )
            for service, url in self._settings.urls.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for http in self._https.values():
            http.close()

    def _send(self, call: Call[Answer]) -> Answer:
        retrying = Retrying(**retry_options(call.repeatable, self._settings))
        answer: Answer | Problem = retrying(self._send_once, call)
        if not isinstance(answer, Problem):
            return answer
        try:
            raise answer
        finally:
            del answer  # its traceback holds this frame, and through it would hold itself and the call

    def _send_once(self, call: Call[Answer]) -> Answer | Problem:
        """Return the answer, or its problem: tenacity keeps what is raised, with its frames and the call."""
        http = self._https[call.service]
        try:
            response = http.send(call.request(http))
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

    def _events(self, path: str, kind: type[Followed]) -> Iterator[Followed]:
        """Yield each change of a run, or of a data set's extractions, until all have ended.

        A stream that breaks, or ends earlier, is opened again. Raises ``interrupted`` 503 if no state has
        arrived for `RECONNECT_SECONDS`. Problems of the first attempt are raised at once.
        """
        http = self._https["trainer"]
        timeout = httpx.Timeout(self._settings.timeout, read=SILENCE_SECONDS)
        known: dict[object, Followed] = {}
        lost: float | None = None  # when the last stream ended that sent a state
        pause = _PAUSES[0]
        while True:
            current: dict[object, Followed] = {}
            problem = None
            try:
                with connect_sse(http, "GET", path, timeout=timeout) as source:
                    if not source.response.is_success:
                        source.response.read()
                        raise problem_of(source.response, str(http.base_url))
                    for event in source.iter_sse():
                        if not event.data:
                            continue
                        state = kind.model_validate(json.loads(event.data))
                        key = (state.space.id, state.image_set) if isinstance(state, Extraction) else None
                        current[key], lost = state, None
                        if known.get(key) != state:
                            known[key], pause = state, _PAUSES[0]
                            yield state
                        if state.ended and key is None:
                            return
                if all(state.ended for state in current.values()) and (current or kind is Extraction):
                    return
            except httpx.TransportError as error:
                problem = problem_of_transport(error, str(http.base_url)).because_of(error)
            except Problem as answered:
                problem = answered.as_value()
            if problem is not None:
                first = not known and problem.retry_after is None
                if first or problem.status not in _PASSING:
                    raise problem
                if lost is None:
                    log.warning("%s Asking again for the state of the run.", problem.detail)
            lost = time.monotonic() if lost is None else lost
            wait = max(pause, float(problem.retry_after or 0)) if problem else pause
            silent = time.monotonic() - lost
            if silent + wait > RECONNECT_SECONDS:
                raise stopped_watching(problem, str(http.base_url), silent)
            sleep(wait)
            pause = min(2 * pause, _PAUSES[1])
