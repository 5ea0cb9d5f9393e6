"""The proxy before the real embedding container, with InsightFace's smallest pack and a real Redis."""

import io
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import jsonpickle
import numpy as np
import pytest
import requests
from agegender.faces import FacesAnswer, ImageFaces
from agegender.wire import decode_embeddings_request
from PIL import Image, ImageOps

from tests.support.packs import buffalo_sc_dir
from tests.support.proxies import entry_problem, post, proxy, ready_embedders
from tests.support.redis_server import redis_server
from tests.support.serving import free_port, until
from tools.stack import PHOTOGRAPH

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonpickle announces version 5


@contextmanager
def embedder(directory: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = str(free_port())
    environment = {
        **os.environ,
        "PORT": port,
        "EMBEDDER_PORT": port,
        "EMBEDDER_PACK": "buffalo_sc",
        "EMBEDDER_PACK_DIR": str(buffalo_sc_dir()),
        "EMBEDDER_THREADS": "1",
        "DATA_DIR": str(directory),
    }
    process = subprocess.Popen([sys.executable, "-m", "embedder"], env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, "the embedder ended"
        try:
            return httpx.get(f"{url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(ready, "the embedder is ready", 60)
        yield url, process
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def embedder_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedder(tmp_path_factory.mktemp("embedder")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(embedder_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        redis_server(tmp_path_factory.mktemp("redis")) as redis,
        proxy(embedder_urls=embedder_url, redis_url=redis.url, cache_ttl=60) as started,
    ):
        until(lambda: ready_embedders(started), "the proxy has found the embedder")
        yield started


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def faces(client: httpx.Client, *images: bytes) -> list[ImageFaces]:
    response = post(client, *images)
    assert response.status_code == 200, response.text
    answered = FacesAnswer.model_validate_json(response.content).images
    assert all(isinstance(image, ImageFaces) for image in answered)
    return [image for image in answered if isinstance(image, ImageFaces)]


def test_six_faces_are_found_and_answered_the_same_from_the_cache(client: httpx.Client) -> None:
    (first,) = faces(client, PHOTOGRAPH.read_bytes())
    assert (first.width, first.height, len(first.faces)) == (1280, 886, 6)
    embeddings = np.array([face.embedding for face in first.faces])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
    metrics = client.get("/metrics").text
    (again,) = faces(client, PHOTOGRAPH.read_bytes())
    assert again == first
    asked = 'proxy_images_total{source="embedder"}'
    (before,) = [line for line in metrics.splitlines() if line.startswith(asked)]
    assert before in client.get("/metrics").text


def test_the_proxy_reports_what_the_embedder_reports(client: httpx.Client, embedder_url: str) -> None:
    direct = httpx.post(f"{embedder_url}/faces", timeout=60, files={"image": PHOTOGRAPH.read_bytes()})
    through = client.post("/faces", files={"image": PHOTOGRAPH.read_bytes()})
    assert FacesAnswer.model_validate_json(through.content) == FacesAnswer.model_validate_json(direct.content)
    assert client.get("/info").json()["space"] == httpx.get(f"{embedder_url}/info").json()["space"]


def test_orientation_is_applied_by_whoever_decodes(client: httpx.Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.open(PHOTOGRAPH).resize((640, 443))
    lying = saved(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(lying))).size == upright.size
    by_exif, by_pixels = faces(client, lying, saved(upright, "PNG"))
    assert by_exif == by_pixels


def animation() -> bytes:
    photograph = Image.open(PHOTOGRAPH).resize((640, 443))
    return saved(photograph, "GIF", save_all=True, append_images=[Image.new("RGB", photograph.size)])


def test_an_animation_is_answered_from_its_first_frame(client: httpx.Client) -> None:
    (answer,) = faces(client, animation())
    assert len(answer.faces) == 6


def test_no_face_is_an_empty_list(client: httpx.Client) -> None:
    (answer,) = faces(client, saved(Image.new("RGB", (320, 240), "grey"), "PNG"))
    assert answer.faces == []


@pytest.mark.parametrize(
    ("image", "status", "kind"),
    [
        (b"", 400, "empty-image"),
        (b"Dear sir or madam", 415, "unreadable-image"),
        (PHOTOGRAPH.read_bytes()[:60_000], 422, "damaged-image"),
        (PHOTOGRAPH.read_bytes() + bytes(50_000_000), 413, "image-too-large"),
    ],
    ids=["0 bytes", "text", "truncated", "50 MB"],
)
def test_bad_images_are_reported_and_the_embedder_stays_in_use(
    image: bytes, status: int, kind: str, client: httpx.Client
) -> None:
    assert entry_problem(post(client, image)) == (status, kind)
    good, bad = post(client, saved(Image.new("RGB", (64, 64)), "PNG"), image).json()["images"]
    assert good["faces"] == []
    assert bad["problem"]["status"] == status
    assert len(ready_embedders(client)) == 1


def test_the_originals_client_gets_its_arrays(client: httpx.Client) -> None:
    # Request by request what tae898/age-gender's client.py does, with its libraries.
    data = jsonpickle.encode({"image": PHOTOGRAPH.read_bytes()})
    response = requests.post(f"{client.base_url}/", json=data, timeout=60)
    found = jsonpickle.decode(response.text)["face_detection_recognition"]
    assert len(found) == 6
    for face in found:
        x1, y1, x2, y2 = face["bbox"].tolist()
        assert 0 <= x1 < x2 <= 1280 and 0 <= y1 < y2 <= 886
        assert 0 < face["det_score"] <= 1
        assert face["landmark"].shape == (5, 2)
    embeddings = np.array([face["normed_embedding"] for face in found]).reshape(-1, 512).astype(np.float32)
    body = requests.Request(
        "POST", "http://x/", json=jsonpickle.encode({"embeddings": pickle.dumps(embeddings)})
    )
    sent = body.prepare().body
    assert isinstance(sent, bytes)
    np.testing.assert_array_equal(decode_embeddings_request(sent), embeddings)
    (ours,) = faces(client, PHOTOGRAPH.read_bytes())
    np.testing.assert_array_equal(
        embeddings, np.array([face.embedding for face in ours.faces], dtype=np.float32)
    )


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_an_embedder_that_dies_or_hangs_while_it_works_costs_no_request(
    sent: signal.Signals, embedder_url: str, tmp_path: Path
) -> None:
    with (
        embedder(tmp_path) as (dying_url, process),
        proxy(embedder_urls=f"{dying_url},{embedder_url}", attempt_timeout=3) as client,
    ):
        until(lambda: len(ready_embedders(client)) == 2, "both embedders are found")
        photograph = Image.open(PHOTOGRAPH).resize((640, 443))
        statuses = []
        for number in range(12):
            if number == 4:
                process.send_signal(sent)
            statuses.append(post(client, saved(photograph.rotate(number), "JPEG")).status_code)
        assert statuses == [200] * 12
        assert ready_embedders(client) == [embedder_url]
