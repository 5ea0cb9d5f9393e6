"""Request bodies are read within limits. ASGI messages drive the tests, which control each byte's arrival."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import pytest
from agegender.errors import Problem
from agegender_service.deadlines import Deadline, while_awaited
from agegender_service.request_body import read_body, read_images, read_in_time, read_upload
from agegender_service.settings import BodyLimits
from fastapi import Request

Result = TypeVar("Result")

LIMITS = BodyLimits(max_image_bytes=1000, max_images=3, max_request_bytes=2000)
FORM = "multipart/form-data; boundary=edge"


def request(chunks: Iterable[bytes], content_type: str = "image/jpeg", **headers: str) -> Request:
    """A request whose body arrives in `chunks`, after which the client hangs up."""
    pending = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages: list[dict[str, Any]] = [*pending, {"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    lines = {
        "content-type": content_type,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    pairs = [(name.encode(), value.encode()) for name, value in lines.items()]
    return Request({"type": "http", "method": "POST", "headers": pairs}, receive)


def form(*parts: tuple[str, bytes]) -> bytes:
    written = [
        f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in parts
    ]
    return b"".join(written) + b"--edge--\r\n"


def bytewise(content: bytes) -> list[bytes]:
    return [content[at : at + 1] for at in range(len(content))]


async def slug_of(reading: Any) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        await reading
    return caught.value.status, caught.value.slug


async def test_a_raw_body_is_one_image() -> None:
    assert await read_images(request([b"ab", b"cd"]), LIMITS) == [b"abcd"]


async def test_the_parts_named_image_are_the_images_in_order() -> None:
    body = form(("image", b"one"), ("image", b"three"))
    assert await read_images(request([body], FORM), LIMITS) == [b"one", b"three"]
    assert await read_images(request(bytewise(body), FORM), LIMITS) == [b"one", b"three"]


async def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert len((await read_images(request([bytes(500)] * 2), LIMITS))[0]) == 1000
    assert await slug_of(read_images(request([bytes(500), bytes(501)]), LIMITS)) == (413, "body-too-large")


async def test_a_declared_length_beyond_the_limit_is_refused_before_a_byte_is_read() -> None:
    asked = request([bytes(10)], content_length="1001")
    assert await slug_of(read_body(asked, 1000)) == (413, "body-too-large")
    assert (await asked.receive())["body"] == bytes(10)


async def test_a_declared_length_that_lies_does_not_lift_the_limit() -> None:
    asked = request([bytes(600), bytes(600)], content_length="5")
    assert await slug_of(read_body(asked, 1000)) == (413, "body-too-large")


async def test_a_form_counts_all_its_parts() -> None:
    many = form(*[("image", b"x")] * 4)
    assert await slug_of(read_images(request([many], FORM), LIMITS)) == (413, "too-many-images")
    large = form(*[("image", bytes(40_000))] * 3)
    assert await slug_of(read_images(request([large], FORM), LIMITS)) == (413, "body-too-large")


def text_field(name: str, text: str) -> bytes:
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()


@pytest.mark.parametrize(
    ("body", "problem", "message"),
    [
        (form(("image", b"x"), ("file", b"y")), (422, "invalid-request"), "file field 'file'"),
        (form(("file", b"y")), (400, "no-image"), "field 'file'"),
        (form(("images", b"x"), ("image", b"y")), (422, "invalid-request"), "did you mean 'image'"),
        (text_field("coverage", "0.5") + form(("image", b"x")), (422, "invalid-request"), "'coverage'"),
        (text_field("image", "photo.jpg") + form(), (400, "no-image"), "-F image=@photo.jpg"),
        (text_field("image", "a") + form(("image", b"x")), (422, "invalid-request"), "is text"),
        (text_field("image", "https://a/b.jpg") + form(), (422, "url-not-supported"), "send the image"),
    ],
)
async def test_part_that_would_be_ignored_is_rejected_by_its_name(
    body: bytes, problem: tuple[int, str], message: str
) -> None:
    with pytest.raises(Problem) as caught:
        await read_images(request([body], FORM), LIMITS)
    assert (caught.value.status, caught.value.slug) == problem and message in caught.value.detail


async def test_text_fields_are_given_to_routes_that_have_options() -> None:
    body = text_field("coverage", "0.5") + form(("image", b"x"))
    upload = await read_upload(request([body], FORM.replace("multipart", "Multipart")), LIMITS)
    assert (upload.images, upload.fields) == ([b"x"], [("coverage", "0.5")])


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "image/jpeg"),
        (form(), FORM),
        (form(("photo", b"abc")), FORM),
        (b'--edge\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n--edge--\r\n', FORM),
    ],
)
async def test_no_image_is_reported(body: bytes, content_type: str) -> None:
    assert await slug_of(read_images(request([body], content_type), LIMITS)) == (400, "no-image")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"garbage", FORM),
        (b"--edge\r\n", "multipart/form-data"),
        (form(("image", b"x"))[:-8], FORM),
        (form(("image", b"x"))[:-8], "multipart/form-data"),
        (b"-" * 100_000, "multipart/form-data"),
        (b"--" + b"e" * 71 + b"\r\n", "multipart/form-data"),
        (b"", "multipart/form-data"),
        (b"--edge\r\nno header\r\n\r\nabc\r\n--edge--\r\n", FORM),
        (b"--edge\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--edge--\r\n", FORM),
        (b"--edge\r\nX: " + b"y" * 70_000, FORM),
    ],
)
async def test_body_that_is_no_form_is_reported(body: bytes, content_type: str) -> None:
    status, slug = await slug_of(read_images(request([body], content_type), LIMITS))
    assert (status, slug) in ((400, "bad-multipart"), (413, "body-too-large"))


async def test_boundary_is_read_from_the_body_if_the_header_has_none() -> None:
    body = form(("image", b"one"), ("image", b"three"))
    for content_type in ("multipart/form-data", "multipart/form-data; charset=utf-8"):
        for chunks in ([body], bytewise(body)):
            assert await read_images(request(chunks, content_type), LIMITS) == [b"one", b"three"]


async def test_boundary_that_never_comes_is_awaited_for_one_line() -> None:
    asked = request([b"-" * 50] * 10, "multipart/form-data")
    assert await slug_of(read_images(asked, LIMITS)) == (400, "bad-multipart")
    assert (await asked.receive())["body"], "the rest of the body is not read"


async def test_a_client_that_hangs_up_while_it_sends_is_no_surprise() -> None:
    asked = request([])

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    asked = Request(asked.scope, receive)
    assert await slug_of(read_body(asked, 10)) == (499, "client-closed-request")


@pytest.mark.parametrize(
    ("seconds", "deadline", "slug"),
    [(0.01, 60, "slow-request"), (0.01, 0.01, "slow-request"), (60, 0.01, "deadline-exceeded")],
)
async def test_body_is_waited_for_until_its_time_or_the_deadline_is_over(
    seconds: float, deadline: float, slug: str
) -> None:
    reading = read_in_time(asyncio.sleep(60), seconds, Deadline.after(deadline))
    assert (await slug_of(reading))[1] == slug


async def awaited(asked: Request, work: Coroutine[Any, Any, Result], seconds: float) -> Result:
    async with while_awaited(asked, Deadline.after(seconds)):
        return await work


async def test_work_for_a_client_that_hung_up_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    asked = request([])
    await read_body(asked, 10)
    assert await slug_of(awaited(asked, work(), 60)) == (499, "client-closed-request")
    assert cancelled.is_set()


async def test_work_is_cancelled_when_its_deadline_passes() -> None:
    cancelled = asyncio.Event()

    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    working = awaited(Request({"type": "http"}, never), work(), 0.01)
    assert await slug_of(working) == (504, "deadline-exceeded")
    assert cancelled.is_set()


async def test_work_for_a_client_that_waits_is_finished() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def work() -> int:
        return 7

    assert await awaited(Request({"type": "http"}, receive), work(), 60) == 7


async def test_time_out_of_the_work_itself_is_not_taken_for_the_deadline() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def work() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await awaited(Request({"type": "http"}, receive), work(), 60)


async def test_disconnect_at_the_end_of_the_work_leaves_its_result_and_no_task() -> None:
    hung_up = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def work() -> int:
        await asyncio.sleep(0)
        hung_up.set()
        return 7

    assert await awaited(Request({"type": "http"}, receive), work(), 60) == 7
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
