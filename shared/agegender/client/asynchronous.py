"""The same client for asyncio."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from httpx_sse import aconnect_sse
from tenacity import AsyncRetrying

from agegender.client import calls
from agegender.client.calls import Call
from agegender.client.retries import problem_of, problem_of_transport, retrying
from agegender.client.settings import ClientSettings
from agegender.client.training import Dataset, DuplicateGroup, Experiment, Extraction, ReportFormat, Search
from agegender.faces import FacesAnswer
from agegender.heads.head import Task
from agegender.predictions import AgeGenderAnswer, EmbeddingsAnswer, Models

Answer = TypeVar("Answer")


class AsyncClient:
    """Talks to the services; every method raises `agegender.errors.Problem`.

    Parameters
    ----------
    settings : default: from the environment.

    Examples
    --------
    >>> async with AsyncClient() as client:  # doctest: +SKIP
    ...     answer = await client.predict([Path("photo.jpg").read_bytes()])
    ...     answer.images[0].faces[0].age.mean
    """

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self._settings = settings or ClientSettings()
        self._https: dict[calls.Service, httpx.AsyncClient] = {
            service: httpx.AsyncClient(
                base_url=url, headers=self._settings.headers, timeout=self._settings.timeout
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

    async def predict(self, images: Sequence[bytes], **options: Any) -> AgeGenderAnswer:
        """Age and gender of each face; `options` are the query of `POST /age-gender`."""
        return await self._send(calls.predict(images, options))

    async def annotate(self, image: bytes, **options: Any) -> bytes:
        """The picture with boxes and labels, a PNG file."""
        return await self._send(calls.annotate(image, options))

    async def predict_embeddings(
        self, space: str, embeddings: Sequence[Sequence[float]], **options: Any
    ) -> EmbeddingsAnswer:
        return await self._send(calls.predict_embeddings(space, embeddings, options))

    async def faces(self, images: Sequence[bytes]) -> FacesAnswer:
        return await self._send(calls.faces(images))

    async def models(self) -> Models:
        return await self._send(calls.models())

    async def roll_back(self, task: Task, space: str | None = None) -> Models:
        return await self._send(calls.roll_back(task, space))

    async def datasets(self) -> list[Dataset]:
        return await self._send(calls.datasets())

    async def dataset(self, name: str) -> Dataset:
        return await self._send(calls.dataset(name))

    async def extract(self, name: str, **options: Any) -> Extraction:
        """Start an extraction or go on with it; `options` are the body of `POST /datasets/{name}/extract`."""
        return await self._send(calls.extract(name, options))

    async def regroup(self, name: str, **options: Any) -> Extraction:
        """Find subjects and folds anew; `options` are the body of `POST /datasets/{name}/regroup`."""
        return await self._send(calls.regroup(name, options))

    async def duplicates(self, name: str, **options: Any) -> list[DuplicateGroup]:
        """The groups of near-duplicates, largest first; `options` are `space` and `variant`."""
        return await self._send(calls.duplicates(name, options))

    async def duplicates_sheet(self, name: str, **options: Any) -> bytes:
        """Draw these groups as a JPEG; `options` are those of `duplicates`, and `first` and `groups`."""
        return await self._send(calls.duplicates_sheet(name, options))

    async def watch_extraction(self, name: str) -> AsyncIterator[Extraction]:
        """Each change of a data set's extractions, until none runs."""
        async for event in self._events(calls.dataset_path(name, "/events")):
            yield Extraction.model_validate(event)

    async def create_experiment(self, request: Mapping[str, Any], key: str | None = None) -> Experiment:
        """`request` is the body of `POST /experiments`; the same `key` never makes a second experiment."""
        return await self._send(calls.create_experiment(request, key))

    async def experiments(self) -> list[Experiment]:
        return await self._send(calls.experiments())

    async def experiment(self, identifier: str) -> Experiment:
        return await self._send(calls.experiment(identifier))

    async def watch(self, identifier: str) -> AsyncIterator[Experiment]:
        """Each change of an experiment, until it has ended."""
        async for event in self._events(f"/experiments/{identifier}/events"):
            yield Experiment.model_validate(event)

    async def report(self, identifier: str, kind: ReportFormat = "json") -> str:
        """Of an experiment or of a search."""
        return await self._send(calls.report(identifier, kind))

    async def promote(self, identifier: str, refit: bool = True) -> dict[str, str]:
        """Serve its heads: task → version. With `refit`, train on all faces too, and serve that if better."""
        return await self._send(calls.promote(identifier, refit))

    async def refit(self, identifier: str) -> Experiment:
        """Train on all faces too, for the report to say which is better out of fold."""
        return await self._send(calls.refit(identifier))

    async def resume(self, identifier: str) -> Experiment:
        return await self._send(calls.resume(identifier))

    async def cancel(self, identifier: str) -> Experiment:
        """Cancel an experiment that runs; one that is over is deleted."""
        return await self._send(calls.cancel(identifier))

    async def create_search(self, request: Mapping[str, Any], key: str | None = None) -> Search:
        return await self._send(calls.create_search(request, key))

    async def searches(self) -> list[Search]:
        return await self._send(calls.searches())

    async def search(self, identifier: str) -> Search:
        return await self._send(calls.search(identifier))

    async def watch_search(self, identifier: str) -> AsyncIterator[Search]:
        """Each change of a search, until it has ended."""
        async for event in self._events(f"/searches/{identifier}/events"):
            yield Search.model_validate(event)

    async def resume_search(self, identifier: str) -> Search:
        return await self._send(calls.resume_search(identifier))

    async def cancel_search(self, identifier: str) -> Search:
        """Cancel a search that runs; one that is over is deleted."""
        return await self._send(calls.cancel_search(identifier))

    async def _send(self, call: Call[Answer]) -> Answer:
        return await AsyncRetrying(**retrying(call, self._settings))(self._send_once, call)

    async def _send_once(self, call: Call[Answer]) -> Answer:
        http = self._https[call.service]
        try:
            response = await http.send(call.request(http))
        except httpx.TransportError as error:
            raise problem_of_transport(error, str(http.base_url)) from error
        if not response.is_success:
            raise problem_of(response)
        return call.read(response)

    async def _events(self, path: str) -> AsyncIterator[Any]:
        http = self._https["trainer"]
        patient = httpx.Timeout(self._settings.timeout, read=None)
        try:
            async with aconnect_sse(http, "GET", path, timeout=patient) as source:
                if not source.response.is_success:
                    await source.response.aread()
                    raise problem_of(source.response)
                async for event in source.aiter_sse():
                    if event.data:
                        yield json.loads(event.data)
        except httpx.TransportError as error:
            raise problem_of_transport(error, str(http.base_url)) from error
