"""Define what the proxy needs from an embedding container, and talk to our own: `POST /faces`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx
from agegender.errors import Problem
from agegender.faces import FaceSelection, ImageFaces
from agegender.spaces import Space
from agegender_service.deadlines import Deadline
from agegender_service.faces_client import FacesClient, ServiceFailed


class EmbedderFailed(Exception):
    """The container is unreachable, failed, or returned an invalid response. The pool ejects it."""


class EmbedderBusy(Exception):
    """The container cannot accept another request now; another one may."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


@dataclass(frozen=True)
class Probed:
    """The state of a ready container.

    progress : grows with each step of its work; None if it does not report it.
    """

    space: Space
    progress: int | None = None


@dataclass(frozen=True)
class Embedded:
    """One entry per image, in the order sent: its faces, or its problem.

    seconds : the container's own account of its time by stage; empty if it reports none.
    """

    space: Space
    images: list[ImageFaces | Problem]
    seconds: Mapping[str, float] = field(default_factory=dict)


class Wire(Protocol):
    """Talk to containers in one wire format. Both methods raise `EmbedderFailed`."""

    async def probe(self, url: str) -> Probed:
        """Return the state of a container. Raises `EmbedderFailed` if it is not ready."""

    async def embed(
        self, url: str, images: Sequence[bytes], selection: FaceSelection, deadline: Deadline
    ) -> Embedded:
        """Return the selected faces of image files.

        Raises `EmbedderBusy`, `TimeoutError` if the container itself reports that the deadline passed, and
        `Problem` for a request that is wrong as a whole.
        """


class AgegenderWire:
    """Implement `Wire` with one `FacesClient` per container; the pool repeats requests, not the client.

    key : header with the services' key. Containers of other wire formats never receive it.
    """

    def __init__(self, http: httpx.AsyncClient, key: Mapping[str, str] | None = None) -> None:
        self._http = http
        self._key = dict(key or {})

    async def probe(self, url: str) -> Probed:
        client = self._client(url)
        try:
            await client.require_ready()
            info = await client.info()
        except Problem as problem:
            raise EmbedderFailed(problem.detail) from problem
        return Probed(info.space, info.progress)

    async def embed(
        self, url: str, images: Sequence[bytes], selection: FaceSelection, deadline: Deadline
    ) -> Embedded:
        try:
            result = await self._client(url).faces(images, selection, deadline)
        except ServiceFailed as problem:
            raise EmbedderFailed(problem.detail) from problem
        except Problem as problem:
            if problem.status == 429:
                problem.retry_after = problem.retry_after or 1
                raise EmbedderBusy(problem) from problem
            if problem.status == 504:  # the container kept to the deadline that it was given
                raise TimeoutError from problem
            if problem.status >= 500:
                raise EmbedderFailed(problem.detail) from problem
            raise
        return Embedded(result.space, result.entries, result.seconds)

    def _client(self, url: str) -> FacesClient:
        return FacesClient(
            url, service="embedding container", headers=self._key, patience=None, http=self._http
        )
