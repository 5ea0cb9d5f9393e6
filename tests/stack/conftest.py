"""What several tests of faults compare with."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainer_processes import ONE_FOLD, TWO_FOLDS, running_trainer


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of `ONE_FOLD` where nothing happens."""
    return _figures(tmp_path_factory.mktemp("undisturbed"), ONE_FOLD)


@pytest.fixture(scope="session")
def undisturbed_folds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of `TWO_FOLDS`."""
    return _figures(tmp_path_factory.mktemp("undisturbed"), TWO_FOLDS)


def _figures(root: Path, request: dict[str, Any]) -> dict[str, Any]:
    with running_trainer(root) as trainer:
        trainer.start_worker()
        experiment = trainer.create(request)
        trainer.wait(experiment)
        return trainer.figures(experiment)


@pytest.fixture
def life() -> Iterator[ExitStack]:
    """What a test enters here ends with it."""
    with ExitStack() as stack:
        yield stack
