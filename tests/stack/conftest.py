"""Systems that several modules use, and what tests of faults compare with.

Tests that use one of these systems run in one process (tests/conftest.py), so that each starts once.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.packs import buffalo_sc_dir, human_pack_dir
from tests.support.trainer_processes import ONE_FOLD, TWO_FOLDS, Trainer, running_trainer
from tools.stack import Stack, running_stack


@pytest.fixture(scope="session")
def human_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole system as `make up` starts it, with the default pack. A test leaves it as it was."""
    root = tmp_path_factory.mktemp("human")
    with running_stack(root, EMBEDDER_HUMAN_DIR=str(human_pack_dir()), LOG_FORMAT="json") as started:
        yield started


@pytest.fixture(scope="session")
def buffalo_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start a system with InsightFace's smallest pack, whose space has 512 dimensions."""
    pack = {"EMBEDDER_PACK": "buffalo_sc", "EMBEDDER_PACK_DIR": str(buffalo_sc_dir())}
    with running_stack(tmp_path_factory.mktemp("buffalo"), **pack) as started:
        yield started


@pytest.fixture(scope="session")
def shared_trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    with running_trainer(tmp_path_factory.mktemp("trainer")) as started:
        yield started


@pytest.fixture
def trainer(shared_trainer: Trainer) -> Iterator[Trainer]:
    """The session's trainer, without a worker at first, as every test leaves it."""
    if not shared_trainer.ready():  # a test that failed may have left it without its API
        shared_trainer.start_api()
    yield shared_trainer
    for worker in shared_trainer.workers:
        shared_trainer.kill(worker)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of `ONE_FOLD` where nothing happens."""
    return _figures(tmp_path_factory, ONE_FOLD)


@pytest.fixture(scope="session")
def undisturbed_folds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the figures of `TWO_FOLDS`, trained once without any fault."""
    return _figures(tmp_path_factory, TWO_FOLDS)


def _figures(folders: pytest.TempPathFactory, request: dict[str, Any]) -> dict[str, Any]:
    with running_trainer(folders.mktemp("undisturbed")) as trainer:
        trainer.start_worker()
        experiment = trainer.create(request)
        trainer.wait(experiment)
        return trainer.figures(experiment)


@pytest.fixture
def life() -> Iterator[ExitStack]:
    """Yield a stack of contexts that end with the test."""
    with ExitStack() as stack:
        yield stack
