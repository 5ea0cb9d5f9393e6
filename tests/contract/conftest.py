"""The predictor before a proxy that answers, fails and misbehaves on purpose."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from trainer.app import create_trainer
from trainer.settings import TrainerSettings

from tests.support.command_line import Run, command_line
from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.made_heads import promoted_heads
from tests.support.redis_server import redis_server
from tests.support.serving import serving, until


@pytest.fixture(scope="session")
def served_proxy() -> Iterator[EmbedderDouble]:
    with EmbedderDouble().served() as double:
        yield double


@pytest.fixture
def proxy(served_proxy: EmbedderDouble) -> Iterator[EmbedderDouble]:
    """The session's proxy, without a fault at first."""
    served_proxy.reset()
    yield served_proxy
    served_proxy.released.set()
    until(lambda: not served_proxy.working, "no request of the test is left")


def settings_in(data_dir: Path, proxy_url: str) -> PredictorSettings:
    promoted_heads(data_dir / "models", SPACE)
    return PredictorSettings(
        data_dir=data_dir,
        heads_dir=data_dir / "shipped",
        proxy_url=proxy_url,
        poll_interval=0.05,
        max_images=8,
    )


@pytest.fixture
def settings(tmp_path: Path, proxy: EmbedderDouble) -> PredictorSettings:
    """For a predictor that the test starts, with heads of its own."""
    return settings_in(tmp_path, proxy.url)


@pytest.fixture(scope="session")
def predictor_url(served_proxy: EmbedderDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = settings_in(tmp_path_factory.mktemp("predictor"), served_proxy.url)
    with serving(create_predictor(settings.model_copy(update={"poll_interval": 1.0}))) as url:
        yield url


@pytest.fixture
def predictor(predictor_url: str, proxy: EmbedderDouble) -> Iterator[httpx.Client]:
    """The session's predictor. A test leaves its heads as they were, or starts one of its own."""
    with httpx.Client(base_url=predictor_url, timeout=20) as client:
        yield client


@pytest.fixture
def own_predictor(settings: PredictorSettings) -> Iterator[httpx.Client]:
    """A predictor of the test's own, whose heads it may change in `settings.models_dir`."""
    with serving(create_predictor(settings)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
def run(
    settings: PredictorSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """The command `agegender`, for a predictor of the test's own."""
    with serving(create_predictor(settings)) as url:
        yield command_line(monkeypatch, capsys, predictor=url)


@pytest.fixture
def data_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy of the data folder that the test file's fixture `trained` makes; a test may change it."""
    return Path(shutil.copytree(trained, tmp_path / "data"))


@pytest.fixture
def trainer(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A trainer for `data_dir` without shipped heads; its jobs find the same folders in this process."""
    with redis_server(tmp_path) as server:
        for name, value in {
            "DATA_DIR": data_dir, "HEADS_DIR": tmp_path / "shipped", "REDIS_URL": server.url
        }.items():  # fmt: skip
            monkeypatch.setenv(name, str(value))
        settings = TrainerSettings(reconcile_seconds=60)
        with serving(create_trainer(settings)) as url, httpx.Client(base_url=url, timeout=60) as http:
            yield http
