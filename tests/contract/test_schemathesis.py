"""The services keep the promises of their OpenAPI documents for requests that schemathesis generates."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from embedder.app import create_embedder
from embedder.settings import EmbedderSettings
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from hypothesis import HealthCheck, settings
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance
from trainer.app import create_trainer
from trainer.settings import TrainerSettings

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.made_heads import promoted_heads
from tests.support.packs import human_pack_dir
from tests.support.redis_server import redis_server
from tests.support.serving import serving, until
from tools.openapi import FOLDER as OPENAPI

BOUNDED = settings(
    max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
FEW = settings(BOUNDED, max_examples=8)  # a request of many options takes long to make up
schemathesis.serializer.alias("application/x-amz-json-1.1", "application/json")
# The services' own documents, by tests/unit/test_openapi.py.
PROXY, EMBEDDER, TRAINER, PREDICTOR = (
    schemathesis.openapi.from_path(OPENAPI / f"{name}.json")
    for name in ("embedder-proxy", "insightface", "trainer", "predictor")
)


@pytest.fixture(scope="module")
def proxy_url() -> Iterator[str]:
    with (
        EmbedderDouble().served() as double,
        serving(create_proxy(ProxySettings(embedder_urls=[double.url], cache_ttl=0))) as url,
    ):
        yield ready(url)


@pytest.fixture(scope="module")
def predictor_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir = tmp_path_factory.mktemp("data")
    promoted_heads(data_dir / "models", SPACE)
    with (
        EmbedderDouble().served() as double,
        serving(create_predictor(PredictorSettings(data_dir=data_dir, proxy_url=double.url))) as url,
    ):
        yield ready(url)


@pytest.fixture(scope="module")
def embedder_url() -> Iterator[str]:
    with serving(create_embedder(EmbedderSettings(human_dir=human_pack_dir()))) as url:
        yield ready(url)


@pytest.fixture(scope="module")
def trainer_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With a Redis, and without data sets or workers."""
    root = tmp_path_factory.mktemp("trainer")
    with (
        redis_server(root) as redis,
        EmbedderDouble().served() as double,
        serving(
            create_trainer(TrainerSettings(data_dir=root, redis_url=redis.url, proxy_url=double.url))
        ) as url,
    ):
        yield ready(url)


def ready(url: str) -> str:
    until(lambda: httpx.get(f"{url}/health/ready").is_success, "the service is ready", 30)
    return url


def keeps_its_promise(case: Any, url: str) -> None:
    answer = case.call(base_url=url)
    # A schema cannot state whether bytes are an image, or whether a folder has labels, so it does not decide
    # which bodies and folders are accepted.
    unlabelled = answer.status_code == 422 and ":unknown-dataset" in answer.text
    excluded = [positive_data_acceptance] if case.operation.body or unlabelled else []
    if answer.status_code == 504:  # the deadline that was made up is soon over
        excluded.append(not_a_server_error)
    case.validate_response(answer, excluded_checks=excluded)


@PROXY.parametrize()
@BOUNDED
def test_proxy_is_as_documented(case: Any, proxy_url: str) -> None:
    keeps_its_promise(case, proxy_url)


@PREDICTOR.parametrize()
@BOUNDED
def test_predictor_is_as_documented(case: Any, predictor_url: str) -> None:
    keeps_its_promise(case, predictor_url)


@EMBEDDER.parametrize()
@BOUNDED
def test_embedder_is_as_documented(case: Any, embedder_url: str) -> None:
    keeps_its_promise(case, embedder_url)


@TRAINER.parametrize()
@FEW
def test_trainer_is_as_documented(case: Any, trainer_url: str) -> None:
    keeps_its_promise(case, trainer_url)
