"""The original's wire format on both sides of the proxy: its clients before it, its container behind it."""

import asyncio
import io
import json
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonpickle
import numpy as np
import pytest
from agegender.faces import FacesAnswer, ImageFaces
from agegender.spaces import Space
from fastapi import FastAPI, Request, Response
from PIL import Image

from tests.support.embedder_double import EmbedderDouble, faces_of
from tests.support.proxies import entry_problem, picture, post, problem_of, proxy
from tests.support.serving import serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonpickle announces version 5


def original_request(url: str, image: bytes) -> httpx.Response:
    """The first half of the original's client.py, on httpx for requests."""
    return httpx.post(url, json=jsonpickle.encode({"image": image}), timeout=20)


def original_client(url: str, image: bytes) -> tuple[list[np.ndarray], bytes]:
    """Boxes, and the body that client.py posts to the age-gender server next."""
    response = jsonpickle.decode(original_request(url, image).text)
    faces = response["face_detection_recognition"]
    boxes = [face["bbox"] for face in faces]
    [face["det_score"] for face in faces], [face["landmark"] for face in faces]
    embeddings = [face["normed_embedding"] for face in faces]
    data = pickle.dumps(np.array(embeddings).reshape(-1, 512).astype(np.float32))
    return boxes, json.dumps(jsonpickle.encode({"embeddings": data})).encode()


@pytest.mark.parametrize("count", [0, 1, 6])
def test_the_originals_client_works_against_the_proxy(count: int) -> None:
    with EmbedderDouble(faces=count).served() as double, proxy(double) as client:
        boxes, body = original_client(f"{client.base_url}/", picture())
        assert [box.tolist() for box in boxes] == [[10, 10, 90, 90]] * count
        embeddings = pickle.loads(jsonpickle.decode(json.loads(body))["embeddings"])
        expected = np.array([face.embedding for face in faces_of(picture(), count=count).faces])
        np.testing.assert_array_equal(embeddings, expected.reshape(-1, 512).astype(np.float32))


def test_a_space_of_another_dimension_is_reported_by_name() -> None:
    with EmbedderDouble(space=Space(id="human-2", dimension=192)).served() as double, proxy(double) as client:
        response = original_request(f"{client.base_url}/", picture())
        assert (response.status_code, problem_of(response)) == (409, "space-mismatch")
        assert "human-2 (192-d)" in response.json()["detail"]
        assert not double.batches


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, "unreadable-message"),
        (b"[" * 10_000, 400, "unreadable-message"),
        (json.dumps('{"py/repr": "os/os.system(1)"}').encode(), 400, "unreadable-message"),
        (json.dumps(jsonpickle.encode({"image": b""})).encode(), 400, "empty-image"),
        (json.dumps(jsonpickle.encode({"image": b"text"})).encode(), 415, "unreadable-image"),
        (b'"' + b"A" * 50_000_000 + b'"', 413, "body-too-large"),
    ],
    ids=["empty", "deep", "repr", "0 bytes", "text", "50 MB"],
)
def test_bad_messages_get_a_problem_document(body: bytes, status: int, kind: str) -> None:
    with EmbedderDouble().served() as double, proxy(double) as client:
        response = client.post("/", content=body)
        assert (response.status_code, problem_of(response)) == (status, kind)


@dataclass
class OriginalDouble:
    """The HTTP of tae898/face-detection-recognition; keeps the images that it was sent."""

    answer: Any = None
    status: int = 200
    pictures: list[Image.Image] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def served(self) -> Iterator[str]:
        app = FastAPI()

        @app.post("/")
        async def faces(request: Request) -> Response:
            message = jsonpickle.decode(await request.json())
            with self.lock:
                self.files.append(message["image"])
                self.pictures.append(Image.open(io.BytesIO(message["image"])))
            await asyncio.sleep(0)
            text = self.answer if isinstance(self.answer, str) else jsonpickle.encode(self._faces())
            return Response(text, self.status, media_type="text/html")

        with serving(app) as url:
            yield url

    def _faces(self) -> dict[str, Any]:
        generator = np.random.default_rng(7)
        embeddings = generator.normal(size=(2, 512)).astype(np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        boxes = np.array([[0, 0, 10, 10], [20, 20, 60, 60]], dtype=np.float64)
        return {
            "face_detection_recognition": [
                {
                    "bbox": box,
                    "det_score": np.float32(0.75),
                    "landmark": np.ones((5, 2)),
                    "normed_embedding": embedding,
                }
                for box, embedding in zip(boxes, embeddings, strict=True)
            ]
        }


@contextmanager
def in_front_of(double: OriginalDouble, **changes: Any) -> Iterator[httpx.Client]:
    with (
        double.served() as url,
        proxy(embedder_urls=url, embedder_wire="original", **changes) as client,
    ):
        yield client


def test_the_original_container_is_one_of_the_embedders() -> None:
    with in_front_of(OriginalDouble()) as client:
        response = post(client, picture(1), picture(2))
        answer = FacesAnswer.model_validate_json(response.content)
        assert answer.space == Space(id="original-512", dimension=512)
        for image in answer.images:
            assert isinstance(image, ImageFaces)
            assert (image.width, image.height) == (64, 48)
            assert [face.bbox for face in image.faces] == [(20, 20, 60, 60), (0, 0, 10, 10)]  # largest first
            assert image.faces[0].det_score == 0.75


def test_its_space_can_be_named() -> None:
    with in_front_of(OriginalDouble(), embedder_space="arcface-r100") as client:
        assert post(client, picture()).json()["space"]["id"] == "arcface-r100"


def test_both_sides_can_speak_the_originals_format() -> None:
    with in_front_of(OriginalDouble()) as client:
        boxes, _ = original_client(f"{client.base_url}/", picture())
        assert [box.tolist() for box in boxes] == [[20, 20, 60, 60], [0, 0, 10, 10]]


def test_an_upright_rgb_jpeg_is_passed_on_byte_by_byte() -> None:
    double = OriginalDouble()
    with in_front_of(double) as client:
        post(client, picture())
    assert double.files == [picture()]


def turned() -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.open(io.BytesIO(picture())).save(file, "JPEG", exif=exif)
    return file.getvalue()


def converted(mode: str, kind: str) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture())).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (turned(), (48, 64)),
        (converted("L", "JPEG"), (64, 48)),
        (converted("CMYK", "JPEG"), (64, 48)),
        (converted("RGBA", "PNG"), (64, 48)),
        (converted("P", "GIF"), (64, 48)),
        (converted("RGB", "WEBP"), (64, 48)),
    ],
    ids=["EXIF", "grey", "CMYK", "alpha", "GIF", "WebP"],
)
def test_the_container_sees_upright_rgb_pictures(image: bytes, size: tuple[int, int]) -> None:
    double = OriginalDouble()
    with in_front_of(double) as client:
        answer = post(client, image).json()["images"][0]
    (seen,) = double.pictures
    assert (seen.mode, seen.size) == ("RGB", size)
    assert (answer["width"], answer["height"]) == size


def test_a_truncated_picture_is_422_and_does_not_reach_the_container() -> None:
    double = OriginalDouble()
    with in_front_of(double) as client:
        whole = picture(size=(640, 480))
        truncated = whole[: len(whole) // 2]
        response = post(client, truncated)
        assert entry_problem(response) == (422, "damaged-image")
        original = original_request(str(client.base_url), truncated)
        assert (original.status_code, problem_of(original)) == (422, "damaged-image")
    assert not double.files


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("<html>", 200),
        ('{"face_detection_recognition": null}', 200),
        ('{"face_detection_recognition": [{"py/object": "os.system"}]}', 200),
        ('{"face_detection_recognition": []}', 500),
    ],
)
def test_garbage_from_the_container_is_503(answer: str, status: int) -> None:
    double = OriginalDouble()
    with in_front_of(double) as client:
        post(client, picture())
        double.answer, double.status = answer, status
        response = post(client, picture())
        assert (response.status_code, problem_of(response)) == (503, "embedder-unavailable")


@pytest.mark.parametrize("count", [0, 2])
def test_image_as_one_face_is_not_available_with_the_originals_container(count: int) -> None:
    answer = None if count else jsonpickle.encode({"face_detection_recognition": []})
    with in_front_of(OriginalDouble(answer)) as client:
        for option, available in (("whole", False), ("found-or-whole", count > 0), ("found", True)):
            response = post(client, picture(), params={"faces": option})
            if available:
                (image,) = FacesAnswer.model_validate_json(response.content).images
                assert isinstance(image, ImageFaces) and len(image.faces) == count
            else:
                assert entry_problem(response) == (422, "invalid-request")
