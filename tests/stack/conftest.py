"""What several tests of faults compare with."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from redis_server import redis_server
from serving import free_port
from trainer_processes import ONE_FOLD, Trainer


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of `ONE_FOLD` where nothing happens."""
    root = tmp_path_factory.mktemp("undisturbed")
    with redis_server(root) as server:
        trainer = Trainer(root, server.url, free_port())
        try:
            trainer.start_api()
            trainer.start("trainer.worker")
            experiment = trainer.create(ONE_FOLD)
            trainer.wait(experiment)
            return trainer.figures(experiment)
        finally:
            trainer.stop()


@pytest.fixture
def life() -> Iterator[ExitStack]:
    """What a test enters here ends with it."""
    with ExitStack() as stack:
        yield stack
