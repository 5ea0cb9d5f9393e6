"""Images of crowds through the real `human` pack, proxy and predictor: a limit, not a failure."""

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from embedder.app import create_embedder
from embedder.settings import EmbedderSettings
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from PIL import Image
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.chain import SIX_ADULTS
from tests.support.packs import human_pack_dir
from tests.support.proxies import ready_embedders
from tests.support.serving import serving, until

SHARE = 0.7  # of the time that a hundred faces take: the proxy's patience for one attempt
PATIENCE = 180.0  # seconds, on a machine with much else to do


@dataclass
class Chain:
    predictor: httpx.Client
    proxy: httpx.Client

    def ask(self, image: bytes, **options: Any) -> dict[str, Any]:
        answer = self.predictor.post("/age-gender", content=image, params=options)
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["images"]
        return dict(found)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, crowd: bytes) -> Iterator[Chain]:
    root: Path = tmp_path_factory.mktemp("crowd")
    with ExitStack() as life:

        def client(url: str) -> httpx.Client:
            return life.enter_context(httpx.Client(base_url=url, timeout=PATIENCE))

        embedder = life.enter_context(
            serving(
                create_embedder(
                    EmbedderSettings(data_dir=root, human_dir=human_pack_dir(), threads=1, timeout=PATIENCE)
                )
            )
        )
        until(lambda: httpx.get(f"{embedder}/health/ready").is_success, "the embedder is ready", 60, 0.1)
        started = time.monotonic()
        httpx.post(f"{embedder}/faces", content=crowd, timeout=PATIENCE).raise_for_status()
        attempt = SHARE * (time.monotonic() - started)
        settings = ProxySettings(
            embedder_urls=[embedder], cache_ttl=0, attempt_timeout=attempt, timeout=PATIENCE
        )
        proxy = life.enter_context(serving(create_proxy(settings)))
        until(lambda: httpx.get(f"{proxy}/health/ready").is_success, "the proxy is ready", 30, 0.1)
        predictor = create_predictor(PredictorSettings(data_dir=root, proxy_url=proxy, timeout=PATIENCE))
        yield Chain(client(life.enter_context(serving(predictor))), client(proxy))


@pytest.fixture(scope="module")
def crowd() -> bytes:
    """A photograph of six people a hundred times, with one of them larger than all others."""
    photograph = Image.open(SIX_ADULTS)
    small = photograph.resize((photograph.width * 2 // 5, photograph.height * 2 // 5))
    sheet = Image.new("RGB", (small.width * 10, small.height * 10))
    for column in range(10):
        for row in range(10):
            sheet.paste(small, (column * small.width, row * small.height))
    sheet.paste(photograph, (0, 0))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=92)
    return file.getvalue()


def test_the_largest_faces_of_a_crowd_are_answered_and_the_others_counted(chain: Chain, crowd: bytes) -> None:
    found = chain.ask(crowd)
    assert found["faces_found"] >= 300
    assert (len(found["faces"]), found["truncated"]) == (100, True)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (face["bbox"] for face in found["faces"])]
    assert areas == pytest.approx(sorted(areas, reverse=True), rel=0.001)  # corners are rounded
    assert len(ready_embedders(chain.proxy)) == 1
    largest = chain.ask(crowd, max_faces=1)
    assert (len(largest["faces"]), largest["truncated"]) == (1, True)
    assert largest["faces_found"] == found["faces_found"]
    assert largest["faces"][0]["bbox"] == found["faces"][0]["bbox"]
    assert largest["faces"][0]["age"]["mean"] == pytest.approx(found["faces"][0]["age"]["mean"], abs=0.05)


def test_one_face_of_a_crowd_costs_one_embedding(chain: Chain, crowd: bytes) -> None:
    before = embedded(chain)
    assert chain.ask(crowd, max_faces=1, min_face=40)["faces"]
    assert embedded(chain) - before == 1


def test_a_few_faces_are_all_answered_and_nothing_is_truncated(chain: Chain) -> None:
    found = chain.ask(SIX_ADULTS.read_bytes())
    assert (len(found["faces"]), found["faces_found"], found["truncated"]) == (6, 6, False)


def embedded(chain: Chain) -> float:
    """Faces that the embedder embedded; all services of this test's process share their counters."""
    text = chain.proxy.get("/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith("embedder_faces_total")]
    return float(line.split()[-1])
