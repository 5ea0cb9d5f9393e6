"""Extraction sends images in requests of bounded size, and selects the labelled face of each."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from agegender.errors import Problem
from agegender.faces import Face, FacesAnswer, ImageFaces, ImageProblem
from agegender.spaces import Space
from agegender_service import faces_client
from agegender_service.faces_client import BlockingFacesClient
from trainer.extraction.embed import labelled_face, same_face_mirrored, same_face_varied

SPACE = Space(id="test-1", dimension=2)
POINTS = [(1.0, 1.0)] * 5


def face(*bbox: float, embedding: tuple[float, float] = (1.0, 0.0), whole: bool = False) -> Face:
    return Face(bbox=bbox, det_score=0.8, landmarks=POINTS, embedding=list(embedding), whole=whole)


def image(*faces: Face) -> ImageFaces:
    return ImageFaces(width=100, height=100, faces=list(faces))


class Proxy:
    """Answers from a list, and notes how many images it was sent and how long the client waited."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.parts: list[int] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        is_form = request.headers.get("content-type", "").startswith("multipart/")
        self.parts.append(request.read().count(b'name="image"') if is_form else bool(request.content))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextmanager
    def client(self, patience: float = 100.0) -> Iterator[BlockingFacesClient]:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        with BlockingFacesClient("http://proxy", patience=patience, http=http, sleep=sleep) as client:
            yield client

    def faces(self, *images: bytes, patience: float = 100.0) -> list[ImageFaces | Problem]:
        with self.client(patience) as client:
            return client.faces(images, SPACE)


def answer(*images: ImageFaces | ImageProblem, space: Space = SPACE) -> httpx.Response:
    return httpx.Response(200, text=FacesAnswer(space=space, images=list(images)).model_dump_json())


def problem(slug: str, status: int, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, json=Problem(slug, status, slug).document(), headers=headers)


def test_busy_proxies_are_asked_again_when_they_say() -> None:
    proxy = Proxy(
        problem("busy", 429, {"Retry-After": "7"}),
        httpx.ConnectError("refused"),
        httpx.Response(502, text="<html>"),
        answer(image()),
    )
    assert proxy.faces(b"x") == [image()]
    assert proxy.waits == [7.0, 1.0, 2.0]


def test_patience_ends_with_the_proxy_s_own_problem() -> None:
    proxy = Proxy(*[problem("not-ready", 503, {"Retry-After": "4"}) for _ in range(5)])
    with pytest.raises(Problem) as caught:
        proxy.faces(b"x", patience=10)
    assert caught.value.slug == "not-ready"
    assert caught.value.retry_after == 4
    assert proxy.waits == [4.0, 4.0]


def test_a_problem_of_an_image_does_not_spoil_the_others() -> None:
    bad = Problem("damaged-image", 422, "cut short")
    proxy = Proxy(answer(image(), ImageProblem(problem=bad.document())))
    first, second = proxy.faces(b"x", b"y")
    assert isinstance(first, ImageFaces)
    assert isinstance(second, Problem)
    assert second.slug == "damaged-image"


def test_a_request_that_is_too_large_is_sent_image_by_image() -> None:
    proxy = Proxy(problem("body-too-large", 413), answer(image()), problem("body-too-large", 413))
    first, second = proxy.faces(b"x", b"y")
    assert isinstance(first, ImageFaces)
    assert isinstance(second, Problem)
    assert proxy.parts == [2, 1, 1]


def test_a_request_that_is_too_much_work_is_sent_image_by_image() -> None:
    proxy = Proxy(problem("deadline-exceeded", 504), answer(image()), answer(image()))
    assert proxy.faces(b"x", b"y") == [image()] * 2
    assert (proxy.parts, proxy.waits) == ([2, 1, 1], [])


def test_a_lone_image_that_is_late_is_asked_for_again() -> None:
    proxy = Proxy(problem("deadline-exceeded", 504), answer(image()))
    assert proxy.faces(b"x") == [image()]
    assert proxy.parts == [1, 1] and len(proxy.waits) == 1


def test_many_images_are_many_requests() -> None:
    proxy = Proxy(answer(*[image()] * 8), answer(*[image()] * 4))
    assert len(proxy.faces(*[b"x"] * 12)) == 12
    assert proxy.parts == [8, 4]


@pytest.mark.parametrize(
    ("bad", "slug"),
    [
        (answer(image(), space=Space(id="other-2", dimension=2)), "space-mismatch"),
        (httpx.Response(200, text="{}"), "bad-answer"),
        (answer(), "bad-answer"),
        (problem("key-needed", 401), "bad-answer"),
        (problem("not-found", 404), "bad-answer"),
        (answer(image(face(0, 0, 9, 9).model_copy(update={"embedding": [1.0, 1.0]}))), "bad-answer"),
    ],
)
def test_answers_that_are_none_are_problems(bad: httpx.Response, slug: str) -> None:
    with pytest.raises(Problem) as caught:
        Proxy(bad).faces(b"x")
    assert caught.value.slug == slug


def test_the_space_is_the_proxy_s() -> None:
    with Proxy(httpx.Response(200, json={"space": SPACE.model_dump()})).client() as client:
        assert client.space() == SPACE
    unready = Proxy(httpx.Response(200, json={"space": None}))
    with unready.client() as client, pytest.raises(Problem, match="which space") as caught:
        client.space()
    assert (caught.value.slug, caught.value.status) == ("not-ready", 503)


def test_space_is_asked_for_again_while_the_proxy_starts() -> None:
    starting = problem("not-ready", 503, {"Retry-After": "4"})
    proxy = Proxy(starting, starting, httpx.Response(200, json={"space": SPACE.model_dump()}))
    with proxy.client() as client:
        assert client.space() == SPACE
    assert proxy.waits == [4, 4]


LARGE_IN_CORNER, MIDDLE, SMALL_IN_MIDDLE = face(0, 0, 45, 45), face(30, 30, 70, 70), face(45, 45, 55, 55)


@pytest.mark.parametrize(
    ("faces", "labelled"),
    [
        ([MIDDLE], 0),
        ([LARGE_IN_CORNER, MIDDLE, SMALL_IN_MIDDLE], 1),
        ([LARGE_IN_CORNER, SMALL_IN_MIDDLE], 1),
        ([LARGE_IN_CORNER, face(0, 90, 10, 100)], 0),
    ],
)
def test_the_labelled_face_is_the_largest_over_the_centre(faces: list[Face], labelled: int) -> None:
    assert labelled_face(image(*faces)) == labelled


def test_in_the_mirrored_image_the_face_is_looked_for_on_the_other_side() -> None:
    left, right = face(5, 10, 35, 50), face(66, 11, 94, 49)
    other = face(40, 10, 60, 50)
    assert same_face_mirrored(left, image(other, right)) is right
    assert same_face_mirrored(left, image(other)) is None
    assert same_face_mirrored(left, image()) is None


def test_in_the_varied_copy_the_face_is_the_most_similar_one_in_the_middle() -> None:
    own = face(5, 10, 35, 50, embedding=(1, 0))
    middle, other = face(30, 30, 70, 70, embedding=(0.5, 0)), face(20, 20, 60, 90, embedding=(0.2, 0))
    corner = face(0, 0, 30, 30, embedding=(1, 0))
    assert same_face_varied(own, image(corner, other, middle)) is middle
    assert same_face_varied(own, image(corner)) is None
    whole = face(0, 0, 100, 100, embedding=(1, 0), whole=True)
    assert same_face_varied(own, image(whole)) is None
    assert same_face_varied(own.model_copy(update={"whole": True}), image(whole)) is whole


def test_large_images_are_not_gathered_in_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces_client, "_REQUEST_BYTES", 100)
    proxy = Proxy(answer(image()), answer(image(), image()))
    reading: list[int] = []

    def images() -> Iterator[bytes]:
        for size in (90, 50, 50):
            reading.append(len(proxy.parts))
            yield b"x" * size

    with proxy.client() as client:
        assert len(client.faces(images(), SPACE)) == 3
    assert proxy.parts == [1, 2]
    assert reading == [0, 0, 1]  # the third was read only when the first request was through
