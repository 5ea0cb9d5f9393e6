"""The services' client of `POST /faces`, `GET /info` and `POST /age-gender`: time-outs, retries, problems."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar, TypeVarTuple

import httpx
from agegender.errors import Problem, not_ready, problem_in, retry_after_seconds
from agegender.faces import EVERY_FACE, FacesAnswer, FaceSelection, ImageFaces, ImageProblem
from agegender.http_clients import CONNECT_SECONDS, direct_client, exchange
from agegender.predictions import AgeGenderAnswer
from agegender.spaces import Space
from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import BaseModel

from agegender_service.deadlines import Deadline
from agegender_service.forms import IMAGE_FIELD
from agegender_service.observability import (
    REQUEST_ID_HEADER,
    SERVER_TIMING_HEADER,
    request_id,
    stage_seconds,
    with_transfer,
)
from agegender_service.packed_faces import ACCEPTED, JSON, read_answer

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

_INFO_SECONDS = 2.0  # for `GET /info` and `GET /health/ready`
_FACES_SECONDS = 120.0  # for one attempt of a caller without a deadline
_SPACE_SECONDS = 5.0  # for which the space is taken as known
_TRANSIENT = frozenset({429, 502, 503, 504})
_RETRY_AFTER = 2  # seconds, for callers of a service that did not say when to try again
# Seconds between two attempts. Each pause is twice the one before, as often as the longest one needs.
_FIRST_PAUSE, _MAX_PAUSE, _DOUBLINGS = 0.5, 30.0, 6
_RAW_BYTES = 1024**2  # up to which a lone image is the body itself: no form to write and to parse
_PARSED_AT_ONCE = 128 * 1024  # bytes of a response that is parsed faster than a thread is changed
_REQUEST_BYTES = 32 * 1024**2  # that one thread of a job holds in memory; below the proxy's limit
_REQUEST_IMAGES = 8  # that the proxy finishes in time, also with several workers on a slow machine


class ServiceFailed(Problem):
    """The service cannot be reached, or its response is not that of `POST /faces` or `GET /info`."""


class _Limits(BaseModel):
    cache_ttl: int | None = None  # None if the service does not report it


class ServiceInfo(BaseModel):
    """The part of `GET /info` that clients need.

    space : of the embeddings that the service returns now.
    progress : grows with each step of the service's work; None if it does not report it.
    """

    space: Space
    progress: int | None = None
    limits: _Limits = _Limits()


@dataclass(frozen=True)
class FacesResult:
    """One entry per image, in the order sent, and the seconds by stage: the service's own, and `transfer`."""

    answer: FacesAnswer
    seconds: dict[str, float]

    @property
    def space(self) -> Space:
        """Return the space of the embeddings."""
        return self.answer.space

    @property
    def entries(self) -> list[ImageFaces | Problem]:
        """Return the faces of each image, or its problem."""
        return [
            Problem.from_document(image.problem) if isinstance(image, ImageProblem) else image
            for image in self.answer.images
        ]


@dataclass(frozen=True)
class _Failure:
    """Why one attempt failed. It is not raised, since tracebacks of kept exceptions hold the images.

    cause : the exception behind it, if any.
    transient : whether another attempt may succeed.
    interrupted : the connection broke or was slow to open, which indicates nothing about the service.
    pause : seconds after which the service asked to try again.
    """

    problem: Problem
    cause: Exception | None = None
    transient: bool = False
    interrupted: bool = False
    pause: int | None = None

    def pause_after(self, attempts: int) -> float:
        """Return the seconds to wait before the next attempt."""
        if self.interrupted and attempts == 1:
            return 0.0
        return min(self.pause or _FIRST_PAUSE * 2 ** min(attempts - 1, _DOUBLINGS), _MAX_PAUSE)


class FacesClient:
    """Ask one service for faces. A request changes nothing there, so it may be repeated.

    An interrupted connection is tried again at once. A transient failure (429, 502, 503, 504, no connection)
    is tried again after the service's `Retry-After`, or growing pauses.

    Parameters
    ----------
    url : address of an embedder-proxy or an embedding container.
    service : its name in messages.
    headers : sent with every request, such as the services' key.
    patience : seconds to spend on pauses between attempts; None for a single attempt.
    connect_timeout : seconds to open a connection.
    http : HTTP client to share, which `close` leaves open.
    sleep : waits between two attempts.
    """

    def __init__(
        self,
        url: str,
        *,
        service: str = "embedder-proxy",
        headers: Mapping[str, str] | None = None,
        patience: float | None = 0.0,
        connect_timeout: float = CONNECT_SECONDS,
        http: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url
        self._service = service
        self._headers = dict(headers or {})
        self._patience = patience
        self._sleep = sleep
        self._shared = http is not None
        self._http = http or direct_client(connect_timeout)
        self._space: Space | None = None
        self._space_known_at = -math.inf

    async def close(self) -> None:
        """Close the connections, unless the HTTP client is shared."""
        if not self._shared:
            await self._http.aclose()

    async def faces(
        self,
        images: Sequence[bytes],
        selection: FaceSelection = EVERY_FACE,
        deadline: Deadline | None = None,
    ) -> FacesResult:
        """Return the selected faces of each image file, or the image's problem.

        deadline : for all attempts; by default each has `_FACES_SECONDS`.

        Raises `ServiceFailed`: ``proxy-unreachable`` 503 and ``bad-answer`` 502; `Problem`:
        ``deadline-exceeded`` 504, and the service's own problems with the request as a whole.
        """
        started = time.perf_counter()
        response = await self._send("POST", "/faces", deadline, images, selection.parameters)
        parsing = response, len(images), selection
        try:
            at_once = len(response.content) <= _PARSED_AT_ONCE
            answer = read_answer(*parsing) if at_once else await asyncio.to_thread(read_answer, *parsing)
        except ValueError as error:
            raise self._bad_answer(str(error)) from error
        self._remember(answer.space)
        reported = stage_seconds(response.headers.get(SERVER_TIMING_HEADER, ""))
        return FacesResult(answer, with_transfer(reported, time.perf_counter() - started))

    async def age_gender(self, images: Sequence[bytes], options: Mapping[str, str]) -> AgeGenderAnswer:
        """Return a predictor's answer for images. Raises what `faces` raises."""
        response = await self._send("POST", "/age-gender", None, images, options)
        try:
            return AgeGenderAnswer.model_validate_json(response.content)
        except ValueError as error:
            raise self._bad_answer("it is not that of POST /age-gender") from error

    async def space(self) -> Space:
        """Return the space that the service uses now, as of a few seconds ago. Raises what `info` raises."""
        if self._space is not None and time.monotonic() - self._space_known_at < _SPACE_SECONDS:
            return self._space
        return (await self.info()).space

    async def info(self) -> ServiceInfo:
        """Return the service's `GET /info`. Raises what `faces` raises, and ``not-ready`` 503."""
        response = await self._send("GET", "/info", seconds=_INFO_SECONDS)
        try:
            content = response.json()
            if isinstance(content, dict) and "space" in content and content["space"] is None:
                raise not_ready(f"The {self._service} does not report which space it uses yet.")
            info = ServiceInfo.model_validate(content)
        except ValueError as error:
            raise self._bad_answer("GET /info does not report which space it uses") from error
        self._remember(info.space)
        return info

    async def require_ready(self) -> None:
        """Raise the reason why the service is not ready, if it is not."""
        await self._send("GET", "/health/ready", seconds=_INFO_SECONDS)

    def _remember(self, space: Space) -> None:
        self._space, self._space_known_at = space, time.monotonic()

    async def _send(
        self,
        method: str,
        path: str,
        deadline: Deadline | None = None,
        images: Sequence[bytes] = (),
        params: Mapping[str, str] | None = None,
        seconds: float = _FACES_SECONDS,
    ) -> httpx.Response:
        """Repeat a request until it succeeds; without a deadline each attempt may take so many seconds."""
        attempts, waited = 0, 0.0
        while True:
            attempts += 1
            until = deadline or Deadline.after(seconds)
            outcome = await self._attempt(method, path, until, images, params or {})
            if isinstance(outcome, httpx.Response):
                return outcome
            pause = outcome.pause_after(attempts)
            # Several images that took too long would take too long again; the caller may send fewer.
            hopeless = not outcome.transient or (outcome.problem.status == 504 and len(images) > 1)
            late = deadline is not None and pause >= deadline.remaining
            if hopeless or late or self._patience is None or waited + pause > self._patience:
                try:
                    raise outcome.problem from outcome.cause
                finally:
                    del outcome  # the problem's traceback holds this frame, and through it would hold itself
            await self._sleep(pause)
            waited += pause

    async def _attempt(
        self, method: str, path: str, deadline: Deadline, images: Sequence[bytes], params: Mapping[str, str]
    ) -> httpx.Response | _Failure:
        if deadline.remaining == 0:
            return _Failure(deadline.exceeded())
        identifier = request_id()
        request = self._http.build_request(
            method,
            self._url + path,
            params=params,
            headers={
                "Accept": ACCEPTED if images else JSON,
                **self._headers,
                **deadline.headers,
                **({} if identifier is None else {REQUEST_ID_HEADER: identifier}),
            },
            timeout=httpx.Timeout(deadline.remaining, connect=self._http.timeout.connect),
            **_body(images),
        )
        try:
            response = await exchange(self._http, request)
        except httpx.TransportError as error:
            if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
                return _Failure(deadline.exceeded(), error, transient=True)
            # Not a fault of the service if it closed a kept connection, or if all CPUs are busy.
            interrupted = not isinstance(error, httpx.ConnectError)
            return _Failure(self._unreachable(error), error, transient=True, interrupted=interrupted)
        except (httpx.RequestError, ValueError) as error:
            return _Failure(self._bad_answer(str(error)), error)
        return response if response.is_success else self._failure(response)

    def _failure(self, response: httpx.Response) -> _Failure:
        """Map a response that is no success to a problem."""
        status = response.status_code
        pause = retry_after_seconds(response.headers.get("retry-after"))
        transient = status in _TRANSIENT
        if status in (401, 403):  # it rejects our key, not our caller's
            fault = f"it rejects SERVICE_KEY ({status}); set the same SERVICE_KEY for all services"
            return _Failure(self._bad_answer(fault, None))
        problem = problem_in(response)
        if problem is None or status in (404, 405):  # no such route: another program has this address
            fault = f"{response.request.method} {response.request.url.path} is {status}"
            failed = self._bad_answer(fault, _RETRY_AFTER if transient else None)
            return _Failure(failed, transient=transient, pause=pause)
        problem.extra.pop("request_id", None)  # equal to ours, which the renderer adds
        return _Failure(problem, transient=transient, pause=pause)

    def _unreachable(self, error: Exception) -> ServiceFailed:
        reason = f"{type(error).__name__} {error}".strip()
        detail = f"The {self._service} cannot be reached; is it running? ({reason})"
        return ServiceFailed("proxy-unreachable", 503, detail, retry_after=_RETRY_AFTER)

    def _bad_answer(self, fault: str, retry_after: int | None = _RETRY_AFTER) -> ServiceFailed:
        detail = f"The {self._service} returned an invalid response: {fault}."
        return ServiceFailed("bad-answer", 502, detail, retry_after=retry_after)


class BlockingFacesClient:
    """Ask an embedder-proxy or a predictor from the threads of a job; a context manager.

    Parameters
    ----------
    patience : seconds to spend on pauses between the attempts of one request.
    service, http, sleep : see `FacesClient`.
    """

    def __init__(
        self,
        url: str,
        *,
        service: str = "embedder-proxy",
        headers: Mapping[str, str] | None = None,
        patience: float,
        http: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        options: Any = {"service": service, "headers": headers, "patience": patience, "http": http}
        self._client = FacesClient(url, sleep=sleep, **options)
        self._running = start_blocking_portal()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        self._portal = self._running.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._call(self._client.close)
        self._running.__exit__(*error)

    def space(self) -> Space:
        """Return the space that the proxy uses now. Raises what `FacesClient.info` raises."""
        return self._call(self._client.space)

    def faces(
        self, images: Iterable[bytes], space: Space, selection: FaceSelection = EVERY_FACE
    ) -> list[ImageFaces | Problem]:
        """Return the selected faces of each image, or its problem.

        The images' sizes determine the number of requests. The images of a request are read from the iterable
        when it is sent.

        Raises ``space-mismatch`` 409 if the proxy's space is another one by now, and what
        `FacesClient.faces` raises.
        """
        return [entry for batch in _batches(images) for entry in self._entries(batch, space, selection)]

    def _entries(
        self, images: Sequence[bytes], space: Space, selection: FaceSelection
    ) -> list[ImageFaces | Problem]:
        try:
            result = self._call(self._client.faces, images, selection)
        except Problem as problem:
            if problem.status not in (413, 504) or isinstance(problem, ServiceFailed):
                raise
            if len(images) > 1:  # too large or too much work as one request
                return [entry for image in images for entry in self._entries([image], space, selection)]
            if problem.status == 504:
                raise
            return [problem.as_value()]
        space.require(result.space)
        return result.entries

    def age_gender(self, images: Sequence[bytes], options: Mapping[str, str]) -> AgeGenderAnswer:
        return self._call(self._client.age_gender, images, options)

    def _call(self, function: Callable[[*Arguments], Awaitable[Result]], *arguments: *Arguments) -> Result:
        if self._portal is None:
            raise RuntimeError("BlockingFacesClient is used outside of its `with` block")
        return self._portal.call(function, *arguments)


def _body(images: Sequence[bytes]) -> dict[str, Any]:
    if len(images) == 1 and 0 < len(images[0]) <= _RAW_BYTES:
        return {"content": images[0]}
    return {"files": [(IMAGE_FIELD, (str(number), image)) for number, image in enumerate(images)] or None}


def _batches(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Split images into requests of at most `_REQUEST_BYTES` and `_REQUEST_IMAGES`."""
    batch: list[bytes] = []
    size = 0
    for image in images:
        if batch and (size + len(image) > _REQUEST_BYTES or len(batch) == _REQUEST_IMAGES):
            yield batch
            batch, size = [], 0
        batch.append(image)
        size += len(image)
    if batch:
        yield batch
