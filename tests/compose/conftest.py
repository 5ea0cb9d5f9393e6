"""One system for all tests here. Builds the images, so it takes minutes."""

import shutil
from collections.abc import Iterator

import pytest

from tests.support.compose_system import ComposeSystem, docker


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeSystem]:
    if shutil.which("docker") is None or docker("info").returncode:
        pytest.skip("no Docker engine: apt-get install docker.io docker-compose, and start it")
    started = ComposeSystem(tmp_path_factory.mktemp("compose") / "data")
    started.data_dir.mkdir()
    try:
        started.run("--profile", "dashboard", "build")
        scales = ("--scale", "insightface=3", "--scale", "trainer-worker=2")
        started.run("--profile", "dashboard", "up", "-d", *scales, seconds=600)
        yield started
    finally:
        print(started.run("--profile", "dashboard", "logs", "--no-color", "--tail", "40"))
        started.run("--profile", "dashboard", "down", "--volumes", "--timeout", "5", seconds=120)
