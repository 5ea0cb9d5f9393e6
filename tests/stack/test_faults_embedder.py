"""A container that answers garbage, late, or with another space, behind the real proxy and predictor."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.embedder_double import SPACE, EmbedderDouble, faces_of
from tests.support.fault_record import record
from tests.support.made_heads import promoted_heads
from tests.support.proxies import picture, ready_embedders
from tests.support.serving import serving, until

GARBAGE = ("html", "empty", "cut", "too few", "nan", "short", "long vectors", "redirect", "404", "500")
FAULTS = (*GARBAGE, "another space", "hang", "busy")
LATE = 1.0  # seconds that the proxy gives a container


@dataclass
class Chain:
    """url : of the predictor. broken, sound : the two containers behind its proxy."""

    url: str
    proxy: httpx.Client
    broken: EmbedderDouble
    sound: EmbedderDouble

    def ask(self, image: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/age-gender", params={"embeddings": True}, content=image, timeout=30)

    def until_ready(self, *containers: EmbedderDouble) -> None:
        """Wait until the proxy takes these for ready, and no others."""
        urls = {container.url for container in containers}
        until(lambda: set(ready_embedders(self.proxy)) == urls, f"{urls} are ready alone", 30)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    root: Path = tmp_path_factory.mktemp("embedder")
    promoted_heads(root / "models", SPACE)
    with ExitStack() as life:
        broken, sound = (life.enter_context(EmbedderDouble().served()) for _ in range(2))
        settings = ProxySettings(
            embedder_urls=[broken.url, sound.url], cache_ttl=0, probe_interval=0.1, attempt_timeout=LATE
        )
        proxy = life.enter_context(serving(create_proxy(settings)))
        predictor = create_predictor(
            PredictorSettings(data_dir=root, heads_dir=root / "none", proxy_url=proxy)
        )
        url = life.enter_context(serving(predictor))
        yield Chain(url, life.enter_context(httpx.Client(base_url=proxy)), broken, sound)


@pytest.mark.parametrize("fault", FAULTS)
def test_container_that_fails_spoils_no_answer_where_another_one_is_sound(chain: Chain, fault: str) -> None:
    chain.broken.fault, chain.sound.fault = None, None
    chain.until_ready(chain.broken, chain.sound)
    chain.broken.fault = fault
    slowest = 0.0
    for seed in range(4):
        image = picture(seed)
        started = time.monotonic()
        answer = chain.ask(image)
        slowest = max(slowest, time.monotonic() - started)
        assert answer.status_code == 200, answer.text
        assert answer.json()["space"]["id"] == SPACE.id
        (returned,) = answer.json()["images"][0]["faces"]
        (true,) = faces_of(image).faces
        assert np.allclose(returned["embedding"], true.embedding)
    record(f"container: {fault}", slowest=round(slowest, 2))
    assert slowest < LATE + 5


@pytest.mark.parametrize("fault", FAULTS)
def test_container_that_fails_alone_is_a_problem_with_retry_after(chain: Chain, fault: str) -> None:
    chain.broken.fault, chain.sound.fault = None, "not ready"
    chain.until_ready(chain.broken)
    chain.broken.fault = fault
    started = time.monotonic()
    answer = chain.ask(picture(1))
    assert time.monotonic() - started < 3 * LATE + 5
    assert answer.status_code == (429 if fault == "busy" else 503), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    chain.broken.fault = None
    until(lambda: chain.ask(picture(1)).status_code == 200, "it is asked again once it is sound", 30)
