"""The `agegender` command with a trainer whose responses a test defines."""

from collections.abc import Iterator

import pytest

from tests.support.command_line import Run, command_line
from tests.support.service_double import Service
from tests.support.serving import serving


@pytest.fixture
def trainer() -> Service:
    return Service()


@pytest.fixture
def run(
    trainer: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    with serving(trainer.app()) as url:
        yield command_line(monkeypatch, capsys, predictor=url, trainer=url, proxy=url)
