"""Start the proxy in front of given embedders."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from PIL import Image

from tests.support.embedder_double import EmbedderDouble
from tests.support.serving import serving, until


@contextmanager
def proxy(*doubles: EmbedderDouble, **changes: Any) -> Iterator[httpx.Client]:
    """A client of a proxy without cache that has found every double that is ready.

    It waits long for a Redis that is slow on a busy machine, unless `cache_timeout` is given.
    """
    urls = ",".join(double.url for double in doubles) or "http://127.0.0.1:9"
    defaults = {"embedder_urls": urls, "cache_ttl": 0, "probe_interval": 0.1, "cache_timeout": 10}
    settings = ProxySettings(**{**defaults, **changes})
    with (
        serving(create_proxy(settings)) as url,
        httpx.Client(base_url=url, timeout=20, limits=httpx.Limits(max_connections=None)) as client,
    ):
        ready = sum(double.fault != "not ready" for double in doubles)
        until(lambda: len(ready_embedders(client)) >= ready, "the proxy has found its embedders")
        yield client


def picture(seed: int = 0, kind: str = "JPEG", size: tuple[int, int] = (64, 48)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def ready_embedders(client: httpx.Client) -> list[str]:
    return [one["url"] for one in client.get("/info").json()["embedders"] if one["ready"]]


def post(client: httpx.Client, *images: bytes, **options: Any) -> httpx.Response:
    return client.post("/faces", files=[("image", ("x", image)) for image in images], **options)


def problem_of(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    return str(document["type"].removeprefix("urn:age-gender:problem:"))


def entry_problem(response: httpx.Response) -> tuple[int, str]:
    """Status and slug of the problem in the only entry of a successful response."""
    assert response.status_code == 200, response.text
    (entry,) = response.json()["images"]
    return entry["problem"]["status"], entry["problem"]["type"].rpartition(":")[2]
