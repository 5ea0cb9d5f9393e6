"""The event loops compute nothing, so that others are answered while one request has much to compute.

Each test measures the longest callback as a share of the CPU time of the client and the service, and takes
the smallest of three requests: a computation on the loop is in each of them, a first import is not.
"""

import json

import httpx
import numpy as np
import pytest
from agegender.faces import FacesAnswer
from embedder import app as embedder_app
from embedder.app import EmbeddingService
from embedder.settings import EmbedderSettings
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.embedder_double import SPACE, faces_of
from tests.support.loop_holds import TIMED, longest_share
from tests.support.serving import serving

MANY = 4096


def test_form_of_90_mb_is_not_copied_on_the_loop() -> None:
    app = create_proxy(ProxySettings(embedder_urls=["http://127.0.0.1:9"], cache_ttl=0))
    files = [("image", bytes(18_000_000))] * 5
    with serving(app, loop=TIMED) as url:
        share, answer = longest_share(lambda: httpx.post(f"{url}/faces", files=files, timeout=60))
    assert answer.status_code == 503  # there is no embedder, but the form was read
    assert share < 0.1  # 0.16 when the files were copied


def test_embeddings_are_read_and_answered_in_threads(settings: PredictorSettings) -> None:
    rows = np.random.default_rng(0).normal(size=(MANY, SPACE.dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    body = json.dumps({"space": SPACE.id, "embeddings": rows.tolist()})
    with serving(create_predictor(settings), loop=TIMED) as url:
        share, answer = longest_share(
            lambda: httpx.post(f"{url}/age-gender/embeddings", content=body, timeout=60)
        )
    assert answer.status_code == 200
    assert share < 0.1


def test_faces_of_a_crowd_are_written_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = FacesAnswer(space=SPACE, images=[faces_of(b"crowd", count=400)])

    async def found(*arguments: object) -> tuple[FacesAnswer, dict[str, float]]:
        return crowd, {}

    async def no_pack(*arguments: object) -> None:
        pass

    monkeypatch.setattr(EmbeddingService, "faces", found)
    monkeypatch.setattr(EmbeddingService, "load", no_pack)
    app = embedder_app.create_embedder(EmbedderSettings())
    with serving(app, loop=TIMED) as url:
        share, answer = longest_share(lambda: httpx.post(f"{url}/faces", content=b"crowd"))
    assert FacesAnswer.model_validate_json(answer.content) == crowd
    assert share < 0.1  # 0.43 when FastAPI wrote them
