"""The embedder-proxy as the predictor sees it: faces of images, and the space they live in."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
from agegender.errors import Problem, problem_in
from agegender.faces import FacesAnswer, FaceSelection
from agegender.http_clients import direct_options
from agegender.spaces import Space
from agegender_service.deadlines import Deadline
from agegender_service.requests import REQUEST_ID_HEADER, request_id
from agegender_service.timings import SERVER_TIMING_HEADER, stage_seconds
from agegender_service.uploads import IMAGE_FIELD
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

_PROBE_SECONDS = 2.0
_KEEP_ALIVE = 15.0  # less than the proxy's, so that it does not close a connection being used
_SPACE_LIFE = 5.0  # seconds for which the space is taken as known


class _ProxyLimits(BaseModel):
    cache_ttl: int | None = None  # of a proxy that does not report it


class ProxyInfo(BaseModel):
    """What is needed of the proxy's `GET /info`."""

    space: Space
    limits: _ProxyLimits = _ProxyLimits()


@dataclass(frozen=True)
class Found:
    """The proxy's answer, and its own account of the seconds by stage."""

    answer: FacesAnswer
    seconds: dict[str, float]


class ProxyClient:
    """Talks to the embedder-proxy. Its problems are passed on as they are."""

    def __init__(self, url: str, *, headers: Mapping[str, str], connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._space: Space | None = None
        self._space_known_at = 0.0
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE),
            **direct_options(),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def faces(self, images: Sequence[bytes], selection: FaceSelection, deadline: Deadline) -> Found:
        """Raises the proxy's own problems, ``proxy-unreachable`` 503, ``bad-answer`` 502, and 504."""
        files = [(IMAGE_FIELD, ("image", image, "application/octet-stream")) for image in images]
        response = await self._send("POST", "/faces", deadline, files=files, params=selection.parameters)
        answer = await run_in_threadpool(_parsed, response.content, len(images))
        self._remember(answer.space)
        return Found(answer, stage_seconds(response.headers.get(SERVER_TIMING_HEADER, "")))

    async def space(self) -> Space:
        """The space that the proxy serves now."""
        if self._space is not None and time.monotonic() - self._space_known_at < _SPACE_LIFE:
            return self._space
        return (await self.info()).space

    async def info(self) -> ProxyInfo:
        response = await self._send("GET", "/info", Deadline.after(_PROBE_SECONDS))
        try:
            info = ProxyInfo.model_validate_json(response.content)
        except ValidationError as error:
            raise _bad_answer("names no space yet") from error
        self._remember(info.space)
        return info

    async def require_ready(self) -> None:
        """Raises the reason for which the proxy cannot work now."""
        await self._send("GET", "/health/ready", Deadline.after(_PROBE_SECONDS))

    def _remember(self, space: Space) -> None:
        self._space, self._space_known_at = space, time.monotonic()

    async def _send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        files: list[tuple[str, tuple[str, bytes, str]]] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        headers = {**deadline.headers, REQUEST_ID_HEADER: request_id() or ""}
        for attempt in (1, 2):
            if deadline.remaining == 0:
                raise deadline.exceeded()
            timeout = httpx.Timeout(deadline.remaining, connect=self._connect_timeout)
            try:
                response = await self._http.request(
                    method, path, headers=headers, files=files, params=params, timeout=timeout
                )
            except httpx.ConnectTimeout as error:
                if attempt == 2:  # where all CPUs are busy, a second may pass without anything amiss
                    raise self._unreachable() from error
                continue
            except httpx.TimeoutException as error:
                raise deadline.exceeded() from error
            except httpx.TransportError as error:
                # A kept connection may have been closed under us; finding faces twice does no harm.
                if attempt == 2 or isinstance(error, httpx.ConnectError):
                    raise self._unreachable() from error
                continue
            if not response.is_success:
                raise _passed_on(response)
            return response
        raise AssertionError("unreachable")

    def _unreachable(self) -> Problem:
        return Problem(
            "proxy-unreachable", 503, "The embedder-proxy cannot be reached; is it running?", retry_after=2
        )


def _parsed(content: bytes, images: int) -> FacesAnswer:
    try:
        answer = FacesAnswer.model_validate_json(content)
    except ValidationError as error:
        raise _bad_answer("is not the faces of images") from error
    if len(answer.images) != images:
        raise _bad_answer(f"has {len(answer.images)} entries for {images} images")
    return answer


def _bad_answer(what: str) -> Problem:
    return Problem("bad-answer", 502, f"The embedder-proxy's answer {what}.")


def _passed_on(response: httpx.Response) -> Problem:
    if response.status_code in (401, 403):  # our key, not our caller's
        return _bad_answer("is that SERVICE_KEY is not its own; give all services the same")
    problem = problem_in(response)
    if problem is None:
        return _bad_answer(f"has the status {response.status_code} and no problem document")
    problem.extra.pop("request_id", None)  # ours is the same, and is set where the problem is rendered
    return problem
