"""The embedding container embeds together what waited, and does nothing for those who hung up."""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.errors import Problem
from agegender.faces import Face, FacesAnswer, FaceSelection, ImageFaces, ImageProblem
from agegender.spaces import Space
from agegender_service.deadlines import Deadline
from embedder import app as service_module
from embedder import inference
from embedder.app import EmbeddingService, create_embedder
from embedder.detection.search import Detections
from embedder.packs.pack import Image, Pack
from embedder.settings import EmbedderSettings
from PIL import Image as Picture

from tests.support.serving import serving, until

POISON = 99  # pixels; the width of an image that no pack can embed


class WaitingPack(Pack):
    """Detects so many faces, and only when it is let go, and embeds none; records the images' widths."""

    def __init__(self) -> None:
        self.space = Space(id="made-1", dimension=4)
        self.models = []
        self.looked_at: list[int] = []
        self.embedded: list[list[int]] = []
        self.found = 1
        self.faces_embedded = 0
        self.seconds = 0.0  # to search one image
        self.go_on = threading.Event()
        self.embed_on = threading.Event()
        self.embed_on.set()

    def detect(self, images: list[Image], awaited: Callable[[], bool] = lambda: True) -> list[Detections]:
        self.looked_at += [image.shape[1] for image in images]
        self.go_on.wait(20)
        time.sleep(self.seconds)
        boxes = np.zeros((self.found, 4), np.float32)
        return [Detections(boxes, boxes[:, 0], np.zeros((self.found, 5, 2), np.float32)) for _ in images]

    def embed(self, images: list[Image], found: list[Detections]) -> list[list[Face]]:
        self.embedded.append([image.shape[1] for image in images])
        self.faces_embedded += sum(len(one.score) for one in found)
        self.embed_on.wait(20)
        if any(image.shape[1] == POISON for image in images):
            raise ValueError("a defect")
        return [[] for _ in images]


def picture(width: int) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", (width, 8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pack() -> Iterator[WaitingPack]:
    pack = WaitingPack()
    yield pack
    pack.go_on.set()


@pytest.fixture
def service(pack: WaitingPack) -> Iterator[EmbeddingService]:
    service = EmbeddingService(EmbedderSettings())
    service.pack = pack
    yield service
    pack.go_on.set()
    service.close()


async def looked_at(pack: WaitingPack, count: int) -> None:
    async with asyncio.timeout(10):
        while len(pack.looked_at) < count:
            await asyncio.sleep(0.01)


async def asked_while_busy(
    service: EmbeddingService, pack: WaitingPack, *requests: list[bytes]
) -> list[FacesAnswer | BaseException]:
    """The answers to `requests`, all of which came while the models were at work on another."""
    first = asyncio.create_task(service.faces([picture(11)], Deadline.after(20)))
    await looked_at(pack, 1)
    asked = [asyncio.create_task(service.faces(images, Deadline.after(20))) for images in requests]
    await asyncio.sleep(0)
    pack.go_on.set()
    await first
    return [
        answer if isinstance(answer, BaseException) else answer[0]
        for answer in await asyncio.gather(*asked, return_exceptions=True)
    ]


async def test_request_waits_while_others_of_its_batch_are_searched(
    service: EmbeddingService, pack: WaitingPack
) -> None:
    first = asyncio.create_task(service.faces([picture(11)], Deadline.after(20)))
    await looked_at(pack, 1)
    asked = [asyncio.create_task(service.faces([picture(w)], Deadline.after(20))) for w in (12, 13, 14)]
    await asyncio.sleep(0)
    pack.seconds = 0.1
    pack.go_on.set()
    await first
    for _, seconds in await asyncio.gather(*asked):
        assert 0.1 <= seconds["detect"] < seconds["queue"]  # its own image
        assert seconds["queue"] >= 0.3  # the first request, and the two others of its batch


async def test_what_arrives_while_the_models_are_at_work_is_embedded_together(
    service: EmbeddingService, pack: WaitingPack
) -> None:
    widths = ([12], [13, 14], [15, 16], [17])
    answers = await asked_while_busy(service, pack, *[[picture(width) for width in of] for of in widths])
    assert pack.embedded == [[11], [12, 13, 14], [15, 16, 17]]  # four at most, and no request is split
    widths_found = [
        [image.width for image in answer.images if isinstance(image, ImageFaces)]
        for answer in answers
        if isinstance(answer, FacesAnswer)
    ]
    assert widths_found == [list(of) for of in widths]


async def test_pictures_beyond_the_memory_for_a_batch_are_embedded_before_the_next_is_decoded(
    service: EmbeddingService, pack: WaitingPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "_MAX_PIXELS", 8 * 20)
    await asked_while_busy(service, pack, [picture(12)], [picture(13)], [picture(14)])
    assert pack.embedded == [[11], [12, 13], [14]]


async def test_defect_with_one_picture_is_its_requests_alone(
    service: EmbeddingService, pack: WaitingPack
) -> None:
    bad, good = await asked_while_busy(service, pack, [picture(POISON)], [b"no picture", picture(12)])
    assert isinstance(bad, ValueError)
    assert isinstance(good, FacesAnswer)
    assert [type(image) for image in good.images] == [ImageProblem, ImageFaces]


async def test_problem_of_a_lone_image_is_its_entry(service: EmbeddingService) -> None:
    answer, _ = await service.faces([b"no picture"], Deadline.after(20))
    (entry,) = answer.images
    assert isinstance(entry, ImageProblem) and entry.problem["status"] == 415


@pytest.mark.parametrize(
    ("selection", "embedded", "truncated"),
    [
        (FaceSelection(), 100, True),
        (FaceSelection(max_faces=1), 1, True),
        (FaceSelection(max_faces=500), 100, True),
        (FaceSelection(min_face=1), 0, False),
    ],
)
async def test_faces_beyond_the_limit_are_counted_and_not_embedded(
    service: EmbeddingService, pack: WaitingPack, selection: FaceSelection, embedded: int, truncated: bool
) -> None:
    pack.found = 600
    pack.go_on.set()
    answer, _ = await service.faces([picture(11)], Deadline.after(20), selection)
    (image,) = answer.images
    assert isinstance(image, ImageFaces)
    assert (image.faces_found, image.truncated, pack.faces_embedded) == (600, truncated, embedded)


async def test_progress_grows_with_each_image_and_each_portion_of_a_crowd(
    service: EmbeddingService, pack: WaitingPack
) -> None:
    pack.go_on.set()
    before = service.progress
    await service.faces([picture(11), picture(12)], Deadline.after(20))
    few = service.progress - before
    pack.found = 100
    await service.faces([picture(11), picture(12)], Deadline.after(20))
    assert service.progress - before - few > few >= 5


async def test_crowd_that_nobody_waits_for_any_more_is_left_in_the_middle(
    service: EmbeddingService, pack: WaitingPack
) -> None:
    pack.found = 1000
    pack.embed_on.clear()
    pack.go_on.set()
    asked = asyncio.create_task(service.faces([picture(11)], Deadline.after(20)))
    async with asyncio.timeout(10):
        while not pack.embedded:
            await asyncio.sleep(0.01)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    pack.found = 1
    pack.embed_on.set()
    await service.faces([picture(12)], Deadline.after(20))
    assert pack.embedded == [[11], [12]]


async def test_what_is_cancelled_in_the_queue_is_never_looked_at(
    service: EmbeddingService, pack: WaitingPack
) -> None:
    first = asyncio.create_task(service.faces([picture(11)], Deadline.after(20)))
    await looked_at(pack, 1)
    second = asyncio.create_task(service.faces([picture(12)], Deadline.after(20)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    pack.go_on.set()
    await first
    await service.faces([picture(13)], Deadline.after(20))
    assert pack.looked_at == [11, 13]


async def test_what_is_cancelled_at_work_ends_after_the_picture_it_is_at(
    service: EmbeddingService, pack: WaitingPack
) -> None:
    asked = asyncio.create_task(service.faces([picture(11), picture(12)], Deadline.after(20)))
    await looked_at(pack, 1)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    pack.go_on.set()
    await service.faces([picture(13)], Deadline.after(20))
    assert pack.looked_at == [11, 13]


async def test_what_waits_beyond_its_deadline_is_504_and_never_looked_at(
    service: EmbeddingService, pack: WaitingPack
) -> None:
    first = asyncio.create_task(service.faces([picture(11)], Deadline.after(20)))
    await looked_at(pack, 1)
    with pytest.raises(Problem) as raised:
        await service.faces([picture(12)], Deadline.after(0.1))
    assert (raised.value.slug, raised.value.status) == ("deadline-exceeded", 504)
    pack.go_on.set()
    await first
    assert pack.looked_at == [11]


def test_client_that_hangs_up_leaves_the_queue(pack: WaitingPack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "load_pack", lambda *arguments: pack)
    statuses: list[int] = []

    def ask(url: str, width: int, **options: Any) -> None:
        statuses.append(httpx.post(f"{url}/faces", content=picture(width), **options).status_code)

    with serving(create_embedder(EmbedderSettings())) as url:
        until(lambda: httpx.get(f"{url}/health/ready").is_success, "the pack is loaded")
        first = threading.Thread(target=ask, args=(url, 11), kwargs={"timeout": 20})
        first.start()
        until(lambda: pack.looked_at == [11], "the first is at work")
        with pytest.raises(httpx.ReadTimeout):
            ask(url, 12, timeout=0.3)
        ask(url, 13, headers={"X-Deadline-Ms": "200"}, timeout=20)
        assert statuses == [504]
        pack.go_on.set()
        first.join(20)
        ask(url, 14, timeout=20)
    assert statuses == [504, 200, 200]
    assert pack.looked_at == [11, 14]
