"""Hostile requests to every wire format: what a predictor process answers, and how much memory it takes."""

from collections.abc import Iterator

import pytest

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.fault_record import record
from tests.support.hostile_adapters import ADAPTERS, hostile_requests, status
from tests.support.made_heads import promoted_heads
from tests.support.predictor_process import PredictorProcess, predictor_process
from tests.support.predictor_requests import png
from tests.support.watched import forget_peak, peak, resident

# Beyond a process that has answered its first requests. The largest bodies here have 32 MiB, and up to three
# copies of them exist at a time: body, text or image, and the request to the proxy.
_MAX_MIB = 160
# The last request's memory may still be in use. A request that needs too much needs it each time.
_ATTEMPTS = 3


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PredictorProcess]:
    root = tmp_path_factory.mktemp("predictor")
    promoted_heads(root / "models", SPACE)
    with (
        EmbedderDouble(broken=lambda image: image != png()).served() as proxy,
        predictor_process(root, proxy.url) as process,
    ):
        for adapter in ADAPTERS.values():  # fills what a process keeps after its first requests
            assert status(process.url, adapter.path, adapter.carrying(png())) == 200
        yield process


@pytest.fixture(scope="module")
def at_rest(predictor: PredictorProcess) -> float:
    return resident(predictor.pid)


@pytest.mark.parametrize("name", ADAPTERS)
def test_hostile_request_is_rejected_within_memory(
    predictor: PredictorProcess, at_rest: float, name: str
) -> None:
    adapter = ADAPTERS[name]
    growths = {}
    for hostile, sent in hostile_requests(name):
        for _again in range(_ATTEMPTS):
            forget_peak(predictor.pid)
            answered = status(predictor.url, adapter.path, sent)
            growths[hostile] = peak(predictor.pid) - at_rest
            if growths[hostile] <= _MAX_MIB:
                break
        assert 400 <= answered < 500 or (answered == 200 and adapter.always_200), (hostile, answered)
        assert growths[hostile] <= _MAX_MIB, (hostile, growths)
    record(f"hostile requests: {name}", requests=len(growths), mib=round(max(growths.values())))
    assert status(predictor.url, adapter.path, adapter.carrying(png())) == 200
