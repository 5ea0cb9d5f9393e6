"""The same client for asyncio."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import httpx
from agegender.faces import FacesAnswer, ImageFaces
from agegender.heads.head import Task
from agegender.http_clients import direct_options, user_options
from agegender.predictions import AgeGenderAnswer, EmbeddingsAnswer, ImageAnswer, Models
from httpx_sse import aconnect_sse
from pydantic import ValidationError
from tenacity import AsyncRetrying

from agegender_client import calls, inputs
from agegender_client.calls import Call, sole
from agegender_client.inputs import Image, SomeImage
from agegender_client.retries import bad_answer, problem_of, problem_of_transport, retrying
from agegender_client.settings import ClientSettings
from agegender_client.training import (
    Dataset,
    DuplicateGroup,
    Experiment,
    Extraction,
    HeadComparison,
    ReportFormat,
    Search,
)

Answer = TypeVar("Answer")


class AsyncClient:
    """Talks to the services; every method raises `agegender.errors.Problem`.

    Parameters
    ----------
    settings : default: from the environment; a wrong one is the problem ``bad-settings``.

    Examples
    --------
    >>> async with AsyncClient() as client:  # doctest: +SKIP
    ...     answer = await client.predict("photo.jpg")
    ...     answer.faces[0].age.mean
    """

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self._settings = settings or ClientSettings.from_environment()
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

    @overload
    async def predict(self, images: Image, **options: Any) -> ImageAnswer: ...

    @overload
    async def predict(
        self, images: list[SomeImage] | tuple[SomeImage, ...], **options: Any
    ) -> AgeGenderAnswer: ...

    async def predict(self, images: Any, **options: Any) -> ImageAnswer | AgeGenderAnswer:
        """Estimate age and gender of each face.

        Parameters
        ----------
        images : a path (`str` or `Path`), bytes, a binary file object, or a list of these. One image gives
            its `ImageAnswer`; a list gives an `AgeGenderAnswer` with one entry per image, in the order given.
            The entry of an image that has a problem has `ok == False`, `problem` and no faces.
        options : those of `POST /age-gender`, such as ``coverage=0.8``.

        Raises `Problem`, also for the problem of the only image of a request; `TypeError` for other types;
        `OSError` for a file that cannot be read.
        """
        answer = await self._send(calls.predict(await asyncio.to_thread(inputs.contents, images), options))
        return sole(answer.images) if inputs.is_one_image(images) else answer

    async def annotate(self, image: Image, **options: Any) -> bytes:
        """Return the image with boxes and labels, a PNG file. `image` and `options` as for `predict`."""
        return await self._send(calls.annotate(await asyncio.to_thread(inputs.content, image), options))

    async def predict_embeddings(
        self, space: str, embeddings: Sequence[Sequence[float]], **options: Any
    ) -> EmbeddingsAnswer:
        return await self._send(calls.predict_embeddings(space, embeddings, options))

    @overload
    async def faces(self, images: Image) -> ImageFaces: ...

    @overload
    async def faces(self, images: list[SomeImage] | tuple[SomeImage, ...]) -> FacesAnswer: ...

    async def faces(self, images: Any) -> ImageFaces | FacesAnswer:
        """Detect faces and embed them; `images`, answers and errors as of `predict`.

        The answer for a list names the space of the embeddings.
        """
        answer = await self._send(calls.faces(await asyncio.to_thread(inputs.contents, images)))
        return sole(answer.images) if inputs.is_one_image(images) else answer

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
        async for event in self._events(calls.dataset_events(name)):
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
        async for event in self._events(calls.experiment_events(identifier)):
            yield Experiment.model_validate(event)

    async def report(self, identifier: str, kind: ReportFormat = "json") -> str:
        """Of an experiment or of a search."""
        return await self._send(calls.report(identifier, kind))

    async def comparison(self, identifier: str) -> list[HeadComparison]:
        """The served heads against those that `promote` would put in their place, in error and in faces."""
        return await self._send(calls.comparison(identifier))

    async def promote(self, identifier: str, refit: bool = True, force: bool = False) -> dict[str, str]:
        """Serve its heads: task → version. With `refit`, train on all faces too, and serve that if better.

        Raises ``promotion-needs-confirmation`` if `comparison` gives a reason against it, unless `force`.
        """
        return await self._send(calls.promote(identifier, refit, force))

    async def refit(self, identifier: str) -> Experiment:
        """Train on all faces too, for the report to say which is better out of fold."""
        return await self._send(calls.refit(identifier))

    async def resume(self, identifier: str) -> Experiment:
        return await self._send(calls.resume(identifier))

    async def cancel(self, identifier: str) -> Experiment:
        """Cancel an experiment that runs; one that is over stays as it is."""
        return await self._send(calls.cancel(identifier))

    async def delete(self, identifier: str) -> Experiment:
        """Delete an experiment that is over and is not served, with all its files."""
        return await self._send(calls.delete(identifier))

    async def create_search(self, request: Mapping[str, Any], key: str | None = None) -> Search:
        return await self._send(calls.create_search(request, key))

    async def searches(self) -> list[Search]:
        return await self._send(calls.searches())

    async def search(self, identifier: str) -> Search:
        return await self._send(calls.search(identifier))

    async def watch_search(self, identifier: str) -> AsyncIterator[Search]:
        """Each change of a search, until it has ended."""
        async for event in self._events(calls.search_events(identifier)):
            yield Search.model_validate(event)

    async def resume_search(self, identifier: str) -> Search:
        return await self._send(calls.resume_search(identifier))

    async def cancel_search(self, identifier: str) -> Search:
        """Cancel a search that runs; one that is over stays as it is."""
        return await self._send(calls.cancel_search(identifier))

    async def delete_search(self, identifier: str) -> Search:
        """Delete a search that is over, with all its files."""
        return await self._send(calls.delete_search(identifier))

    async def _send(self, call: Call[Answer]) -> Answer:
        return await AsyncRetrying(**retrying(call, self._settings))(self._send_once, call)

    async def _send_once(self, call: Call[Answer]) -> Answer:
        http = self._https[call.service]
        try:
            response = await http.send(call.request(http))
        except httpx.TransportError as error:
            raise problem_of_transport(error, str(http.base_url)) from error
        if not response.is_success:
            raise problem_of(response, str(http.base_url))
        try:
            return call.read(response)
        except ValidationError as error:
            raise bad_answer(response, call.service) from error

    async def _events(self, path: str) -> AsyncIterator[Any]:
        http = self._https["trainer"]
        patient = httpx.Timeout(self._settings.timeout, read=None)
        try:
            async with aconnect_sse(http, "GET", path, timeout=patient) as source:
                if not source.response.is_success:
                    await source.response.aread()
                    raise problem_of(source.response, str(http.base_url))
                async for event in source.aiter_sse():
                    if event.data:
                        yield json.loads(event.data)
        except httpx.TransportError as error:
            raise problem_of_transport(error, str(http.base_url)) from error
