"""Nothing large waits for Python's garbage collector, which may come much later, when a request has ended."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from agegender_client import Client, ClientSettings

from tests.support import packs
from tests.support.chain import SIX_ADULTS, served_chain
from tests.support.hostile_adapters import ADAPTERS, status

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
