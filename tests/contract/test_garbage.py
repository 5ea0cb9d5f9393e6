"""Nothing large waits for Python's garbage collector, which may come much later, when a request has ended."""

import asyncio
import gc
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from agegender.errors import Problem
from agegender_client import AsyncClient, Client, ClientSettings
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


@pytest.fixture(scope="module")
def hangs_up() -> Iterator[str]:
    """The address of a server that closes each connection as soon as something arrives."""

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HangUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def resets() -> Iterator[str]:
    """The address of a server that resets each connection at once, while the client still writes."""

    class Reset(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Reset) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def failing(fault: str, double: EmbedderDouble, hangs_up: str) -> str:
    """The address of a service with this fault."""
    double.reset()
    double.fault, double.retry_after = fault, 0
    other = {"unreachable": f"http://127.0.0.1:{free_port()}", "hangs up": hangs_up}
    return other.get(fault, double.url)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(
    "fault", ["unreachable", "hangs up", "busy", "500", "503", "504", "404", "cut", "hang"]
)
def test_images_of_failed_requests_between_services_are_freed(
    double: EmbedderDouble, hangs_up: str, fault: str, images: int
) -> None:
    url = failing(fault, double, hangs_up)
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


@pytest.mark.parametrize("images", [1, 2])
def test_images_of_requests_whose_connection_is_reset_are_freed(resets: str, images: int) -> None:
    """The operating system's error holds the frame that wrote, and the connection holds the error."""
    failed: list[int] = []

    async def ask() -> None:
        client = FacesClient(resets)
        for _ in range(30):  # each is reset at another moment
            try:
                await client.faces([photograph()] * images)
            except Problem as problem:
                failed.append(problem.status)
        await client.close()

    garbage = large_garbage(lambda: asyncio.run(ask()))
    assert failed == [503] * 30
    assert garbage == []


def test_images_of_abandoned_requests_between_services_are_freed(double: EmbedderDouble) -> None:
    double.reset()
    double.fault = "hang"

    async def ask() -> None:
        client = FacesClient(double.url)
        asking = asyncio.create_task(client.faces([photograph()]))
        while not double.working:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await client.close()

    garbage = large_garbage(lambda: asyncio.run(ask()))
    assert garbage == []


@pytest.mark.parametrize("fault", ["unreachable", "hangs up", "resets", "busy", "503", "cut"])
def test_images_of_failed_requests_are_freed_by_the_client(
    double: EmbedderDouble, hangs_up: str, resets: str, fault: str
) -> None:
    url = resets if fault == "resets" else failing(fault, double, hangs_up)
    settings = ClientSettings(proxy_url=url, attempts=2, patience=10)
    statuses: list[int] = []

    def ask() -> None:
        with Client(settings) as client:
            try:
                client.faces(photograph())
            except Problem as problem:
                statuses.append(problem.status)

    assert large_garbage(ask) == []
    assert statuses[0] >= 429
    if fault == "busy":
        assert len(double.batches) == 2


@pytest.mark.parametrize(("fault", "requests"), [("busy", 1), ("resets", 20)])
async def test_images_of_failed_requests_are_freed_by_the_client_for_asyncio(
    double: EmbedderDouble, hangs_up: str, resets: str, fault: str, requests: int
) -> None:
    url = resets if fault == "resets" else failing(fault, double, hangs_up)
    settings = ClientSettings(proxy_url=url, attempts=2 if fault == "busy" else 1, patience=10)

    async def ask() -> None:
        async with AsyncClient(settings) as client:
            for _ in range(requests):
                with pytest.raises(Problem):
                    await client.faces(photograph())

    garbage = await asyncio.to_thread(lambda: large_garbage(lambda: asyncio.run(ask())))
    assert fault != "busy" or len(double.batches) == 2
    assert garbage == []


def test_problem_that_is_kept_does_not_keep_the_image(double: EmbedderDouble, hangs_up: str) -> None:
    image = photograph()
    references = sys.getrefcount(image)
    with Client(ClientSettings(proxy_url=failing("unreachable", double, hangs_up))) as client:
        try:
            client.faces(image)
        except Problem as problem:
            kept = problem.with_traceback(None)
    assert isinstance(kept.__cause__, httpx.ConnectError)
    assert sys.getrefcount(image) == references


@pytest.fixture(scope="module")
def predictor_of_double(double: EmbedderDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A predictor whose embedder-proxy is the double."""
    settings = PredictorSettings(
        data_dir=tmp_path_factory.mktemp("data"), proxy_url=double.url, poll_interval=0.1, timeout=4
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
