"""`POST /faces` of the proxy in front of embedders that respond as the test requires."""

import io
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from agegender.faces import FacesAnswer, ImageFaces
from agegender_service.observability import stage_seconds
from PIL import Image

from tests.support.embedder_double import SPACE, EmbedderDouble, faces_of
from tests.support.proxies import entry_problem, picture, post, problem_of, proxy, ready_embedders
from tests.support.serving import until

StartProxy = Callable[..., httpx.Client]


@pytest.fixture
def start_proxy() -> Iterator[StartProxy]:
    with ExitStack() as stack:
        yield lambda *doubles, **changes: stack.enter_context(proxy(*doubles, **changes))


@pytest.fixture
def double() -> Iterator[EmbedderDouble]:
    with EmbedderDouble().served() as one:
        yield one


def test_faces_are_answered_as_the_embedder_gave_them(
    start_proxy: StartProxy, double: EmbedderDouble
) -> None:
    client = start_proxy(double)
    answer = FacesAnswer.model_validate_json(post(client, picture()).content)
    assert answer == FacesAnswer(space=SPACE, images=[faces_of(picture())])
    raw = client.post("/faces", content=picture(), headers={"Content-Type": "image/jpeg"})
    assert FacesAnswer.model_validate_json(raw.content) == answer


def test_the_images_of_a_request_go_to_the_embedder_in_one_call_and_come_back_in_order(
    start_proxy: StartProxy, double: EmbedderDouble
) -> None:
    images = [picture(seed) for seed in (3, 1, 2, 1)]
    answer = FacesAnswer.model_validate_json(post(start_proxy(double), *images).content)
    assert answer.images == [faces_of(image) for image in images]
    assert double.batches == [3]  # the same image twice is sent once


def test_one_bad_image_does_not_spoil_the_others(start_proxy: StartProxy, double: EmbedderDouble) -> None:
    damaged = picture(9)
    double.broken = lambda image: image == damaged
    answer = post(start_proxy(double), picture(1), b"text", damaged, b"", picture(2)).json()
    kinds = [entry.get("problem", {}).get("status") for entry in answer["images"]]
    assert kinds == [None, 415, 422, 400, None]
    assert double.batches == [3]


def test_problem_of_a_lone_image_is_its_entry(start_proxy: StartProxy, double: EmbedderDouble) -> None:
    double.broken = lambda image: True
    response = post(start_proxy(double), picture())
    assert entry_problem(response) == (422, "damaged-image")


def test_no_face_is_an_empty_list(start_proxy: StartProxy, double: EmbedderDouble) -> None:
    double.faces = 0
    response = post(start_proxy(double), picture())
    assert response.status_code == 200
    assert response.json()["images"][0]["faces"] == []


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def huge_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


BAD_IMAGES: dict[str, tuple[dict[str, Any], int, str]] = {
    "0 bytes": ({"files": [("image", ("x", b""))]}, 400, "empty-image"),
    "text as JPEG": (
        {"files": [("image", ("x.jpg", b"Dear sir or madam", "image/jpeg"))]},
        415,
        "unreadable-image",
    ),
    "20,000 x 20,000 PNG": ({"files": [("image", ("x", huge_png()))]}, 413, "too-many-pixels"),
    "50 MB image in a form": (
        {"files": [("image", ("x", picture() + bytes(50_000_000)))]},
        413,
        "image-too-large",
    ),
}
BAD_REQUESTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no image": ({"content": b""}, 400, "no-image"),
    "no image field": ({"files": [("other", ("x", b"abc"))]}, 400, "no-image"),
    "a text field named image": ({"data": {"image": "text"}, "files": [("x", ("x", b"y"))]}, 400, "no-image"),
    "50 MB body": ({"content": picture() + bytes(50_000_000)}, 413, "body-too-large"),
    "150 MB form": ({"files": [("image", ("x", bytes(150_000_000)))]}, 413, "body-too-large"),
    "65 images": ({"files": [("image", ("x", picture()))] * 65}, 413, "too-many-images"),
    "form without boundary": (
        {"content": b"abc", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "bad-multipart",
    ),
    "form of garbage": (
        {"content": b"abc", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400,
        "bad-multipart",
    ),
    "deadline of words": (
        {"content": picture(), "headers": {"X-Deadline-Ms": "soon"}},
        400,
        "bad-deadline",
    ),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image_gets_a_problem_as_its_entry_and_never_reaches_the_embedder(
    name: str, start_proxy: StartProxy, double: EmbedderDouble
) -> None:
    request, status, kind = BAD_IMAGES[name]
    assert entry_problem(start_proxy(double).post("/faces", **request)) == (status, kind)
    assert not double.batches


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_request_gets_a_problem_document_and_never_reaches_the_embedder(
    name: str, start_proxy: StartProxy, double: EmbedderDouble
) -> None:
    request, status, kind = BAD_REQUESTS[name]
    response = start_proxy(double).post("/faces", **request)
    assert (response.status_code, problem_of(response)) == (status, kind)
    assert response.headers["X-Request-ID"] == response.json()["request_id"]
    assert not double.batches


def test_bad_request_is_rejected_even_without_an_embedder(start_proxy: StartProxy) -> None:
    response = start_proxy().post("/faces", content=b"")
    assert (response.status_code, problem_of(response)) == (400, "no-image")


def test_image_is_not_ready_to_be_answered_before_any_embedder_named_its_space(
    start_proxy: StartProxy,
) -> None:
    response = start_proxy().post("/faces", content=b"text")
    assert (response.status_code, problem_of(response)) == (503, "not-ready")


def test_bad_image_gets_its_entry_while_the_embedder_is_down(
    start_proxy: StartProxy, double: EmbedderDouble
) -> None:
    client = start_proxy(double)
    double.fault = "not ready"
    until(lambda: not ready_embedders(client), "the embedder is ejected")
    assert entry_problem(client.post("/faces", content=b"text")) == (415, "unreadable-image")


def test_an_animation_is_passed_on(start_proxy: StartProxy, double: EmbedderDouble) -> None:
    assert post(start_proxy(double), animation()).status_code == 200


def test_a_body_without_a_length_is_stopped_at_the_limit(
    start_proxy: StartProxy, double: EmbedderDouble
) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 50_000_000:
            sent += 65536
            yield bytes(65536)

    client = start_proxy(double, max_image_bytes=1_000_000)
    try:
        response = client.post("/faces", content=endless())
        assert response.status_code == 413
    except (
        httpx.WriteError,
        httpx.ReadError,
    ):  # the proxy answered and closed while the body was still coming
        pass
    assert sent < 50_000_000


def test_a_body_that_does_not_arrive_is_408(start_proxy: StartProxy, double: EmbedderDouble) -> None:
    client = start_proxy(double, read_timeout=0.2)
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(b"POST /faces HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_deadline_that_passes_while_the_body_arrives_is_504(
    start_proxy: StartProxy, double: EmbedderDouble
) -> None:
    client = start_proxy(double)
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(
            b"POST /faces HTTP/1.1\r\nHost: x\r\nX-Deadline-Ms: 200\r\nContent-Length: 1000\r\n\r\nabc"
        )
        head = connection.recv(1000).lower()
    assert head.startswith(b"http/1.1 504") and b"connection: close" in head


def test_request_id_and_deadline_travel_on(start_proxy: StartProxy, double: EmbedderDouble) -> None:
    post(start_proxy(double), picture(), headers={"X-Request-ID": "abc-1", "X-Deadline-Ms": "5000"})
    assert double.headers[0]["x-request-id"] == "abc-1"
    assert 4000 < int(double.headers[0]["x-deadline-ms"]) <= 5000


def test_metrics_tell_queue_and_inference_apart(start_proxy: StartProxy, double: EmbedderDouble) -> None:
    client = start_proxy(double)
    post(client, picture())
    text = client.get("/metrics").text
    for name in ("proxy_queue_seconds_count", "proxy_inference_seconds_count", "proxy_faces_total"):
        (line,) = [line for line in text.splitlines() if line.startswith(name)]
        assert float(line.split()[-1]) >= 1


def test_time_by_stage_is_passed_on_with_the_own_wait_added(
    start_proxy: StartProxy, double: EmbedderDouble
) -> None:
    stages = stage_seconds(post(start_proxy(double), picture()).headers["Server-Timing"])
    assert (stages["decode"], stages["detect"], stages["embed"]) == (0.002, 0.003, 0.004)
    assert 0.001 <= stages["queue"] < 1
    assert stages["check"] > 0 and stages["cache"] > 0 and "transfer" in stages


def test_container_that_reports_no_times_leaves_only_the_wait(
    start_proxy: StartProxy, double: EmbedderDouble
) -> None:
    double.timing = ""
    stages = stage_seconds(post(start_proxy(double), picture()).headers["Server-Timing"])
    assert list(stages) == ["check", "cache", "queue"]


def test_info_reports_space_embedders_and_limits(start_proxy: StartProxy, double: EmbedderDouble) -> None:
    info = start_proxy(double, max_images=7).get("/info").json()
    assert info["space"] == SPACE.model_dump()
    assert info["embedders"] == [{"url": double.url, "ready": True, "reason": None, "in_flight": 0}]
    assert info["limits"]["max_images"] == 7


def test_many_requests_at_once_get_their_own_faces(start_proxy: StartProxy, double: EmbedderDouble) -> None:
    client = start_proxy(double)
    pictures = [picture(seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda image: post(client, image), pictures))
    for image, answer in zip(pictures, answers, strict=True):
        assert ImageFaces.model_validate(answer.json()["images"][0]) == faces_of(image)
