"""Talk to our own embedding container: `POST /faces`, `GET /health/ready`, `GET /info`."""

from collections.abc import Mapping, Sequence

import httpx
from agegender.errors import Problem
from agegender.faces import FaceSelection
from agegender_service.deadlines import Deadline
from agegender_service.faces_client import FacesClient, ServiceFailed

from embedder_proxy.embedders import Embedded, EmbedderBusy, EmbedderFailed, Probed


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
