"""Nothing large waits for Python's garbage collector, which may come much later, when a request has ended."""

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from agegender.errors import Problem
from agegender_client import Client, ClientSettings
from agegender_service.deadlines import Deadline
from agegender_service.faces_client import FacesClient
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support import packs
from tests.support.chain import SIX_ADULTS, served_chain
from tests.support.embedder_double import EmbedderDouble
from tests.support.hostile_adapters import ADAPTERS, status
from tests.support.made_heads import promoted_heads
from tests.support.serving import free_port, serving

_LARGE = 2**20  # bytes


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Embedder, proxy and predictor, all in this process."""
    with served_chain(tmp_path_factory.mktemp("data"), "human", packs.human_pack_dir()) as url:
        yield url


def photograph() -> bytes:
    return SIX_ADULTS.read_bytes() + bytes(2 * _LARGE)  # decoders ignore what follows a JPEG


def large_garbage(work: Callable[[], Any]) -> list[str]:
    """Return which large values only garbage refers to after `work`, and what refers to them."""
    gc.collect()
    gc.disable()
    try:
        work()
        time.sleep(0.1)  # the services have sent their responses, and may not have returned yet
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [
            f"{sys.getsizeof(value)} bytes of {type(value).__name__}, held by {left!r:.200}"
            for left in gc.garbage
            for value in gc.get_referents(left)
            if sys.getsizeof(value) >= _LARGE
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(("image", "expected"), [("photograph", {200}), ("too large", {200, 400, 413, 422})])
def test_images_are_freed_without_the_garbage_collector(
    predictor: str, name: str, image: str, expected: set[int]
) -> None:
    sent = ADAPTERS[name].carrying(photograph() if image == "photograph" else bytes(24 * _LARGE))
    answered: list[int] = []
    garbage = large_garbage(lambda: answered.append(status(predictor, ADAPTERS[name].path, sent)))
    assert answered[0] in expected
    assert garbage == []


def test_images_are_freed_by_the_client(predictor: str) -> None:
    image = photograph()
    with Client(ClientSettings(predictor_url=predictor)) as client:
        garbage = large_garbage(lambda: client.predict(image))
    assert garbage == []


@pytest.fixture(scope="module")
def double() -> Iterator[EmbedderDouble]:
    with EmbedderDouble().served() as double:
        yield double


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("fault", ["unreachable", "busy", "500", "503", "504", "404", "cut", "hang"])
def test_images_of_failed_requests_between_services_are_freed(
    double: EmbedderDouble, fault: str, images: int
) -> None:
    double.reset()
    double.fault = fault
    url = f"http://127.0.0.1:{free_port()}" if fault == "unreachable" else double.url
    statuses = []

    async def ask() -> None:
        client = FacesClient(url, patience=0.6)
        try:
            await client.faces([photograph()] * images, deadline=Deadline.after(1.5))
        except Problem as problem:
            statuses.append(problem.status)
        finally:
            await client.close()

    garbage = large_garbage(lambda: asyncio.run(ask()))
    assert statuses and statuses[0] >= 429
    assert garbage == []


async def test_images_of_abandoned_requests_between_services_are_freed(double: EmbedderDouble) -> None:
    double.reset()
    double.fault = "hang"

    async def ask() -> None:
        client = FacesClient(double.url)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.faces([photograph()]), 0.3)
        await client.close()

    garbage = await asyncio.to_thread(lambda: large_garbage(lambda: asyncio.run(ask())))
    assert garbage == []


@pytest.mark.parametrize("fault", ["unreachable", "busy", "503"])
def test_images_of_failed_requests_are_freed_by_the_client(double: EmbedderDouble, fault: str) -> None:
    double.reset()
    double.fault = fault
    url = f"http://127.0.0.1:{free_port()}" if fault == "unreachable" else double.url
    statuses = []

    def ask() -> None:
        with Client(ClientSettings(proxy_url=url, patience=1)) as client:
            try:
                client.faces(photograph())
            except Problem as problem:
                statuses.append(problem.status)

    garbage = large_garbage(ask)
    assert statuses[0] in (429, 503)
    assert garbage == []


@pytest.fixture(scope="module")
def predictor_of_double(double: EmbedderDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A predictor whose embedder-proxy is the double."""
    settings = PredictorSettings(
        data_dir=tmp_path_factory.mktemp("data"), proxy_url=double.url, poll_interval=0.1, timeout=1.5
    )
    promoted_heads(settings.models_dir, double.space)
    with serving(create_predictor(settings)) as url:
        yield url


@pytest.mark.parametrize(
    ("name", "fault"),
    [*((name, "503") for name in ADAPTERS), *(("our own, form", fault) for fault in ("busy", "500", "hang"))],
)
def test_images_of_failed_requests_are_freed_by_the_predictor(
    double: EmbedderDouble, predictor_of_double: str, name: str, fault: str
) -> None:
    double.reset()
    double.fault = fault
    sent = ADAPTERS[name].carrying(photograph())
    answered: list[int] = []
    garbage = large_garbage(lambda: answered.append(status(predictor_of_double, ADAPTERS[name].path, sent)))
    assert double.batches and (answered[0] >= 429 or ADAPTERS[name].always_200)
    assert garbage == []
