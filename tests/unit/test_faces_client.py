"""The client of `POST /faces` repeats what may succeed, within its caller's time, and checks what it gets."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from agegender.errors import Problem
from agegender.faces import Face, FacesAnswer, FaceSelection, ImageFaces, ImageProblem
from agegender.spaces import Space
from agegender_service.deadlines import Deadline
from agegender_service.faces_client import FacesClient, ServiceFailed
from agegender_service.packed_faces import ACCEPTED, PACKED, pack_answer, pack_image

SPACE = Space(id="test-1", dimension=2)
FACE = Face(bbox=(0, 0, 9, 9), det_score=0.8, landmarks=[(1.0, 1.0)] * 5, embedding=[1.0, 0.0])
IMAGE = ImageFaces(width=9, height=9, faces=[FACE])
Answer = httpx.Response | Exception | Callable[[], httpx.Response]


class Service:
    """Returns the responses given to it, one per request, and records the requests and pauses."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer()

    def client(self, **options: Any) -> FacesClient:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return FacesClient("http://service", http=http, sleep=sleep, **options)


def answer(*images: ImageFaces | ImageProblem, **headers: str) -> httpx.Response:
    content = FacesAnswer(space=SPACE, images=list(images)).model_dump_json()
    return httpx.Response(200, text=content, headers=headers)


def problem(slug: str, status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=Problem(slug, status, slug).document(), headers=headers)


@pytest.mark.parametrize("error", [httpx.ReadError("closed"), httpx.ConnectTimeout("slow")])
async def test_interrupted_connection_is_tried_again_once_and_at_once(error: Exception) -> None:
    service = Service(error, answer(IMAGE))
    assert (await service.client().faces([b"x"])).entries == [IMAGE]
    assert service.pauses == [0]
    gone = Service(error, error)
    with pytest.raises(ServiceFailed) as caught:
        await gone.client().faces([b"x"])
    assert (caught.value.slug, caught.value.status, caught.value.retry_after) == ("proxy-unreachable", 503, 2)


@pytest.mark.parametrize(
    ("failure", "slug", "status"),
    [
        (httpx.ConnectError("refused"), "proxy-unreachable", 503),
        (httpx.ReadTimeout("late"), "deadline-exceeded", 504),
        (problem("busy", 429), "busy", 429),
        (httpx.Response(502, text="<html>"), "bad-answer", 502),
        (problem("unauthorized", 401), "bad-answer", 502),
        (problem("not-found", 404), "bad-answer", 502),
        (httpx.Response(307, headers={"Location": "http://elsewhere"}), "bad-answer", 502),
    ],
)
async def test_failure_is_raised_at_once_without_patience(failure: Answer, slug: str, status: int) -> None:
    service = Service(failure)
    with pytest.raises(Problem) as caught:
        await service.client().faces([b"x"])
    assert (caught.value.slug, caught.value.status) == (slug, status)
    assert len(service.requests) == 1


async def test_client_for_one_attempt_repeats_nothing() -> None:
    service = Service(httpx.ReadError("closed"))
    with pytest.raises(ServiceFailed):
        await service.client(patience=None).faces([b"x"])


async def test_patience_ends_with_the_deadline() -> None:
    service = Service(problem("busy", 429, **{"Retry-After": "7"}))
    with pytest.raises(Problem) as caught:
        await service.client(patience=100).faces([b"x"], deadline=Deadline.after(5))
    assert caught.value.slug == "busy" and caught.value.retry_after == 7


async def test_deadline_that_passed_sends_nothing() -> None:
    service = Service()
    with pytest.raises(Problem) as caught:
        await service.client().faces([b"x"], deadline=Deadline.after(0))
    assert caught.value.slug == "deadline-exceeded" and not service.requests


async def test_request_carries_key_deadline_and_selection_and_seconds_come_back() -> None:
    service = Service(answer(IMAGE, **{"Server-Timing": "embed;dur=250"}))
    client = service.client(headers={"Authorization": "Bearer key"})
    result = await client.faces([b"x"], FaceSelection(max_faces=1), Deadline.after(5))
    (request,) = service.requests
    assert request.headers["Authorization"] == "Bearer key"
    assert 4000 < int(request.headers["X-Deadline-Ms"]) <= 5000
    assert dict(request.url.params) == {"max_faces": "1"}
    assert result.seconds == {"embed": 0.25, "transfer": 0} and result.space == SPACE


async def test_faces_beyond_the_selection_are_omitted() -> None:
    service = Service(answer(IMAGE.model_copy(update={"faces": [FACE, FACE]})))
    (image,) = (await service.client().faces([b"x"], FaceSelection(max_faces=1))).entries
    assert isinstance(image, ImageFaces) and len(image.faces) == 1 and image.truncated


async def test_service_that_ignores_a_selection_of_whole_images_is_a_problem_of_the_image() -> None:
    service = Service(answer(IMAGE))
    (entry,) = (await service.client().faces([b"x"], FaceSelection(faces="whole"))).entries
    assert isinstance(entry, Problem) and (entry.slug, entry.status) == ("invalid-request", 422)
    assert "'whole' is not available" in entry.detail
    either = FaceSelection(faces="found-or-whole")
    assert (await Service(answer(IMAGE)).client().faces([b"x"], either)).entries == [IMAGE]


async def test_image_taken_whole_is_omitted_by_no_other_option() -> None:
    changes = {"whole": True, "det_score": 0.0}
    taken = IMAGE.model_copy(update={"faces": [FACE.model_copy(update=changes)], "faces_found": 0})
    selection = FaceSelection(faces="found-or-whole", min_det_score=0.9, min_face=10_000, max_faces=1)
    (image,) = (await Service(answer(taken)).client().faces([b"x"], selection)).entries
    assert image == taken


async def test_space_is_asked_for_once_in_a_while() -> None:
    service = Service(httpx.Response(200, json={"space": SPACE.model_dump(), "progress": 3}))
    client = service.client()
    assert await client.space() == SPACE == await client.space()
    assert len(service.requests) == 1


async def test_response_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agegender.http_clients.exchange.__defaults__", (1000,))
    with pytest.raises(ServiceFailed, match="more than 1000 bytes"):
        await Service(httpx.Response(200, content=bytes(5000))).client().faces([b"x"])


def packed(content: bytes) -> httpx.Response:
    return httpx.Response(200, content=content, headers={"Content-Type": PACKED})


async def test_packed_response_is_accepted_and_read_like_json() -> None:
    problem_entry = ImageProblem(problem=Problem("empty-image", 400, "empty").document())
    content = pack_answer(SPACE, [pack_image(IMAGE), pack_image(problem_entry)])
    service = Service(packed(content), answer(IMAGE, problem_entry))
    results = [await service.client().faces([b"x", b"y"]) for _ in range(2)]
    assert {request.headers["accept"] for request in service.requests} == {ACCEPTED}
    ours, releases_before = (result.answer.model_dump(mode="json") for result in results)
    assert ours == releases_before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xc1",
        b"\x91" * 4000,
        b"\xdd\xff\xff\xff\xff",
        b"\xc7\x01\x05x",
        pack_answer(SPACE, [pack_image(IMAGE)])[:-1],
        pack_answer(SPACE, [pack_image(IMAGE)]) + b"\xc0",
        pack_answer(SPACE, [b"\x91\x01"]),
        pack_answer(SPACE, []),
        pack_answer(Space(id="test-1", dimension=3), [pack_image(IMAGE)]),
        pack_answer(SPACE, [pack_image(IMAGE).replace(b"\x00\x00\x80\x3f", b"\x00\x00\xc0\x7f")]),  # NaN
        pack_answer(SPACE, [pack_image(IMAGE).replace(b"\x00\x00\x80\x3f", b"\x00\x00\x00\x40")]),
    ],
)
async def test_invalid_packed_response_is_a_bad_answer(content: bytes) -> None:
    with pytest.raises(ServiceFailed) as caught:
        await Service(packed(content)).client().faces([b"x"])
    assert (caught.value.slug, caught.value.status) == ("bad-answer", 502)
