"""Talk to embedding containers in two wire formats: our own, and the jsonpickle of the original container."""

import asyncio
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx
from agegender.errors import Problem
from agegender.faces import Face, FaceSelection, ImageFaces, check_embeddings
from agegender.http_clients import exchange
from agegender.images import FORMATS, ImageLimits, decode, is_deep, srgb_transform
from agegender.spaces import Space
from agegender.wire import DIMENSION, OriginalFace, WireError, decode_faces_answer, encode_image_request
from agegender_service.deadlines import Deadline
from agegender_service.faces_client import FacesClient, ServiceFailed
from PIL import Image

DEFAULT_SPACE = "original-512"
_PLAIN_FORMATS = ("JPEG", "PNG")
_ORIENTATION = 0x0112


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


@dataclass(frozen=True)
class UprightImage:
    """An image file without EXIF orientation, and its size in pixels."""

    content: bytes
    width: int
    height: int


class OriginalWire:
    """Talk to `tae898/face-detection-recognition`: jsonpickle on `POST /`, one image per call.

    The images are sent as upright RGB, because the container ignores EXIF, and takes no alpha or grey.

    Parameters
    ----------
    space_id : id of the embeddings' space, because the container does not report which model created them.
    """

    def __init__(self, client: httpx.AsyncClient, limits: ImageLimits, space_id: str | None) -> None:
        self._client = client
        self._limits = limits
        self._space = Space(id=space_id or DEFAULT_SPACE, dimension=DIMENSION)

    async def probe(self, url: str) -> Probed:
        # The container has no health route; Flask returns 405 for GET on its only route.
        request = self._client.build_request("GET", f"{url}/")
        response = await self._exchange(request)
        if response.status_code >= 500:
            raise EmbedderFailed(f"GET / returned {response.status_code}")
        return Probed(self._space)

    async def embed(
        self, url: str, images: Sequence[bytes], selection: FaceSelection, deadline: Deadline
    ) -> Embedded:
        started = time.perf_counter()
        answers = [await self._embed_one(url, image) for image in images]
        seconds = {"embed": time.perf_counter() - started}  # with detection: it reports no times
        return Embedded(self._space, [_selected(one, selection) for one in answers], seconds)

    async def _embed_one(self, url: str, image: bytes) -> ImageFaces | Problem:
        try:
            upright = await asyncio.to_thread(upright_rgb, image, self._limits)
        except Problem as problem:
            return problem.as_value()
        body = await asyncio.to_thread(encode_image_request, upright.content)
        request = self._client.build_request(
            "POST", f"{url}/", content=body, headers={"Content-Type": "application/json"}
        )
        response = await self._exchange(request)
        if response.status_code != 200:
            raise EmbedderFailed(f"POST / returned {response.status_code}")
        return await asyncio.to_thread(self._parse, response.content, upright)

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        try:
            return await exchange(self._client, request)
        except (httpx.RequestError, ValueError) as error:
            raise EmbedderFailed(f"{type(error).__name__} {error}".strip()) from error

    def _parse(self, content: bytes, image: UprightImage) -> ImageFaces:
        try:
            faces = [_face(face) for face in decode_faces_answer(content)]
        except WireError as error:
            raise EmbedderFailed(f"returned an invalid list of faces: {error.detail}") from error
        faces.sort(key=_area, reverse=True)
        answer = ImageFaces(width=image.width, height=image.height, faces=faces)
        try:
            check_embeddings([answer], self._space)
        except ValueError as error:
            raise EmbedderFailed(f"returned an invalid list of faces: {error}") from error
        return answer


def _selected(image: ImageFaces | Problem, selection: FaceSelection) -> ImageFaces | Problem:
    try:
        return selection.apply(image) if isinstance(image, ImageFaces) else image
    except Problem as problem:  # the container cannot take the image as one face
        return problem.as_value()


def _face(face: OriginalFace) -> Face:
    return Face(
        bbox=tuple(face.bbox.tolist()),
        det_score=face.det_score,
        landmarks=[(x, y) for x, y in face.landmark.tolist()],
        sharpness=None,
        embedding=face.normed_embedding.tolist(),
    )


def _area(face: Face) -> float:
    x1, y1, x2, y2 = face.bbox
    return (x2 - x1) * (y2 - y1)


def upright_rgb(content: bytes, limits: ImageLimits) -> UprightImage:
    """Return the file itself if it is an upright 8-bit sRGB JPEG or PNG, else its pixels as PNG (lossless).

    Raises the problems of `agegender.images.decode`, because the original container responds to a damaged
    file with a bare 500.
    """
    pixels = decode(content, limits)
    height, width = pixels.shape[:2]
    if _is_plain(content):
        return UprightImage(content, width, height)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return UprightImage(file.getvalue(), width, height)


def _is_plain(content: bytes) -> bool:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.format not in _PLAIN_FORMATS or image.mode != "RGB" or "transparency" in image.info:
            return False
        if is_deep(image) or srgb_transform(image) is not None:  # their mode is RGB too
            return False
        try:
            return bool(image.getexif().get(_ORIENTATION, 1) == 1)
        except Exception:  # broken EXIF does not affect the pixels
            return True
