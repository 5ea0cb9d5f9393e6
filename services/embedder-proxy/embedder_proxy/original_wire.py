"""Talk to the original embedding container, `tae898/face-detection-recognition`: jsonpickle on `POST /`."""

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from agegender.errors import Problem
from agegender.faces import Face, FaceSelection, ImageFaces, check_embeddings
from agegender.http_clients import exchange
from agegender.images import FORMATS, ImageLimits, decode, is_deep
from agegender.spaces import Space
from agegender.wire import DIMENSION, OriginalFace, WireError, decode_faces_answer, encode_image_request
from agegender_service.deadlines import Deadline
from PIL import Image

from embedder_proxy.embedders import Embedded, EmbedderFailed, Probed

DEFAULT_SPACE = "original-512"
_PLAIN_FORMATS = ("JPEG", "PNG")
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class UprightImage:
    """An image file without EXIF orientation, and its size in pixels."""

    content: bytes
    width: int
    height: int


class OriginalWire:
    """Send one image per call, as upright RGB: the container ignores EXIF, and takes no alpha or grey.

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
        answers = [await self._embed_one(url, image) for image in images]
        return Embedded(self._space, [_selected(one, selection) for one in answers])

    async def _embed_one(self, url: str, image: bytes) -> ImageFaces | Problem:
        try:
            upright = await asyncio.to_thread(upright_rgb, image, self._limits)
        except Problem as problem:
            return problem
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
        return problem


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
    """Return the file itself if it is an upright 8-bit RGB JPEG or PNG, else its pixels as PNG (lossless).

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
        if is_deep(image):  # its mode is RGB too
            return False
        try:
            return bool(image.getexif().get(_ORIENTATION, 1) == 1)
        except Exception:  # broken EXIF does not affect the pixels
            return True
