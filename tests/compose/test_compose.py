"""The system as `docker compose up` starts it. Builds the images, so it takes minutes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from agegender.spaces import Space
from system import assert_six_adults, predict, train_and_promote, wait_until_served

from tools.stack import ROOT, free_ports


def compose() -> list[str]:
    """The Compose at hand: 1.29's docker-compose, or the plug-in of newer engines."""
    if (old := shutil.which("docker-compose", path="/usr/bin:" + os.environ["PATH"])) is not None:
        return [old]
    return ["docker", "compose"]


class ComposeSystem:
    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.ports = free_ports()
        self.environment = {
            **os.environ,
            "PATH": "/usr/bin:" + os.environ["PATH"],
            "COMPOSE_PROJECT_NAME": f"age-gender-test-{os.getpid()}",
            "DOCKER_BUILDKIT": "1",
            "COMPOSE_DOCKER_CLI_BUILD": "1",
            "DATA_VOLUME": str(data_dir),
            "EMBEDDER_PROXY_PORT": str(self.ports["embedder-proxy"]),
            "PREDICTOR_PORT": str(self.ports["predictor"]),
            "TRAINER_PORT": str(self.ports["trainer"]),
        }

    def run(self, *words: str, seconds: float = 1800) -> str:
        done = subprocess.run(
            [*compose(), *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeSystem]:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker engine runs here")
    started = ComposeSystem(tmp_path_factory.mktemp("compose") / "data")
    started.data_dir.mkdir()
    try:
        started.run("build")
        started.run("up", "-d", "--scale", "insightface=2", "--scale", "trainer-worker=2", seconds=600)
        yield started
    finally:
        print(started.run("logs", "--no-color", "--tail", "40"))
        started.run("down", "--volumes", "--timeout", "5", seconds=120)


def wait_ready(system: ComposeSystem) -> None:
    import time

    end = time.monotonic() + 120
    for name in ("embedder-proxy", "predictor", "trainer"):
        while True:
            try:
                if httpx.get(f"{system.url(name)}/health/ready", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < end, f"{name} is not ready"
            time.sleep(0.5)


def test_photograph_training_promotion_and_photograph_again(system: ComposeSystem) -> None:
    wait_ready(system)
    assert_six_adults(predict(system.url("predictor")))
    space = Space.model_validate(httpx.get(f"{system.url('embedder-proxy')}/info").json()["space"])
    # The volume belongs to the services' user now; this test may be anybody.
    system.run("run", "--rm", "--no-deps", "--user", "0:0", "data-init")
    versions = train_and_promote(system.url("trainer"), system.data_dir, space)
    wait_until_served(system.url("predictor"), versions)


def test_containers_run_without_privileges(system: ComposeSystem) -> None:
    for name in ("insightface", "embedder-proxy", "predictor", "trainer", "trainer-worker"):
        container = system.run("ps", "-q", name).split()[0]
        told = subprocess.run(
            [
                "docker",
                "inspect",
                "--format",
                "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}",
                container,
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert told == ["10001", "true", "[ALL]"]


def test_killed_embedding_container_costs_no_request(system: ComposeSystem) -> None:
    wait_ready(system)
    container = system.run("ps", "-q", "insightface").split()[0]
    subprocess.run(["docker", "kill", container], check=True, capture_output=True)
    for _ in range(5):
        assert len(predict(system.url("predictor"))["images"][0]["faces"]) == 6
