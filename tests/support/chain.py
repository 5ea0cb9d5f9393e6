"""Embedding container, proxy and predictor in one process, with real weights.

The heads are the shipped ones, or where a space has none yet, random ones.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from agegender.spaces import Space
from embedder.app import create_embedder
from embedder.settings import EmbedderSettings
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.made_heads import promoted_heads
from tests.support.serving import serving, until
from tools.stack import PHOTOGRAPH

SIX_ADULTS = PHOTOGRAPH


@contextmanager
def served_chain(data_dir: Path, pack: str, pack_dir: Path, **predictor: Any) -> Iterator[str]:
    """The predictor's URL."""
    with ExitStack() as stack:
        embedder = stack.enter_context(
            serving(
                create_embedder(EmbedderSettings(pack=pack, pack_dir=pack_dir, data_dir=data_dir, threads=1))
            )
        )
        until(lambda: httpx.get(f"{embedder}/health/ready").is_success, "the embedder is ready", 60)
        proxy_settings = ProxySettings(embedder_urls=[embedder], cache_ttl=0, probe_interval=0.2)
        proxy = stack.enter_context(serving(create_proxy(proxy_settings)))
        until(lambda: httpx.get(f"{proxy}/health/ready").is_success, "the proxy is ready", 30)
        space = Space.model_validate(httpx.get(f"{proxy}/info").json()["space"])
        settings = PredictorSettings(data_dir=data_dir, proxy_url=proxy, poll_interval=0.1, **predictor)
        if not (settings.heads_dir / "age" / space.id / "current.json").exists():
            promoted_heads(settings.models_dir, space)
        yield stack.enter_context(serving(create_predictor(settings)))
