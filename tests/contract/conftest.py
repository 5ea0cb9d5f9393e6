"""The predictor before a proxy that answers, fails and misbehaves on purpose."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.made_heads import promoted_heads
from tests.support.serving import serving


@pytest.fixture
def proxy() -> Iterator[EmbedderDouble]:
    with EmbedderDouble().served() as double:
        yield double
        double.released.set()


@pytest.fixture
def settings(tmp_path: Path, proxy: EmbedderDouble) -> PredictorSettings:
    promoted_heads(tmp_path / "models", SPACE)
    return PredictorSettings(
        data_dir=tmp_path,
        heads_dir=tmp_path / "shipped",
        proxy_url=proxy.url,
        poll_interval=0.05,
        max_images=8,
    )


@pytest.fixture
def predictor(settings: PredictorSettings) -> Iterator[httpx.Client]:
    with serving(create_predictor(settings)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client
