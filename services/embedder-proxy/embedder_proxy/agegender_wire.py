"""Talk to our own embedding container: `POST /faces`, `GET /health/ready`, `GET /info`."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import httpx
from agegender.errors import Problem, retry_after_seconds
from agegender.faces import FacesAnswer, FaceSelection, ImageFaces
from agegender.spaces import Space
from agegender_service.timings import SERVER_TIMING_HEADER, stage_seconds
from agegender_service.uploads import IMAGE_FIELD
from pydantic import BaseModel, TypeAdapter, ValidationError

from embedder_proxy.embedders import Embedded, EmbedderBusy, EmbedderFailed, Probed, check_faces, exchange

_IMAGE_ERRORS = (400, 413, 415, 422)  # a lone image's error is answered as the request's
_DOCUMENT: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])


class _Info(BaseModel):
    space: Space
    progress: int | None = None


class AgegenderWire:
    """`key` is the header of the services' own key. No other kind of container is shown it."""

    def __init__(self, client: httpx.AsyncClient, key: Mapping[str, str] | None = None) -> None:
        self._client = client
        self._key = dict(key or {})

    async def probe(self, url: str) -> Probed:
        response, content = await self._get(f"{url}/health/ready")
        if response.status_code != 200:
            raise EmbedderFailed(_detail(content) or f"/health/ready answered {response.status_code}")
        _, content = await self._get(f"{url}/info")
        try:
            info = _Info.model_validate_json(content)
        except ValidationError as error:
            raise EmbedderFailed("/info does not tell the space") from error
        return Probed(info.space, info.progress)

    async def embed(
        self, url: str, images: Sequence[bytes], selection: FaceSelection, headers: Mapping[str, str]
    ) -> Embedded:
        files = [(IMAGE_FIELD, (f"{number}", image)) for number, image in enumerate(images)]
        request = self._client.build_request(
            "POST",
            f"{url}/faces",
            params=selection.parameters,
            files=files,
            headers={**headers, **self._key},
        )
        response, content = await exchange(self._client, request)
        status = response.status_code
        if status == 200:
            embedded = await asyncio.to_thread(_parse, content, len(images), selection)
            return replace(embedded, seconds=stage_seconds(response.headers.get(SERVER_TIMING_HEADER, "")))
        if status == 429:
            raise EmbedderBusy(_problem(content, status, _seconds(response)))
        if status == 504:
            raise TimeoutError  # it kept the time that we gave it
        if status in _IMAGE_ERRORS:
            problem = _problem(content, status)
            if len(images) > 1:  # not of one image but of all, such as more than the container takes
                raise problem
            return Embedded(None, [problem])
        raise EmbedderFailed(_detail(content) or f"answered {status}")

    async def _get(self, url: str) -> tuple[httpx.Response, bytes]:
        return await exchange(
            self._client, self._client.build_request("GET", url, headers=self._key), max_bytes=1024 * 1024
        )


def _parse(content: bytes, count: int, selection: FaceSelection) -> Embedded:
    try:
        answer = FacesAnswer.model_validate_json(content)
        images = [
            selection.apply(image) if isinstance(image, ImageFaces) else Problem.from_document(image.problem)
            for image in answer.images
        ]
    except ValueError as error:
        raise EmbedderFailed("answered something that is no list of faces") from error
    if len(images) != count:
        raise EmbedderFailed(f"answered {len(images)} images where {count} were sent")
    check_faces(images, answer.space)
    return Embedded(answer.space, images)


def _problem(content: bytes, status: int, retry_after: int | None = None) -> Problem:
    try:
        document = _DOCUMENT.validate_json(content)
    except ValidationError as error:
        raise EmbedderFailed(f"answered {status} without a problem document") from error
    return Problem.from_document({**document, "status": status}, retry_after=retry_after)


def _detail(content: bytes) -> str:
    try:
        return str(_DOCUMENT.validate_json(content).get("detail", ""))[:200]
    except ValidationError:
        return ""


def _seconds(response: httpx.Response) -> int:
    seconds = retry_after_seconds(response.headers.get("retry-after"))
    return 1 if seconds is None else seconds
