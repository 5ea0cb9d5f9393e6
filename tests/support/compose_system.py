"""The system as `docker compose up` starts it, under a project name and on ports of its own."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.support.serving import until
from tools.stack import ROOT, free_ports

PUBLIC = ("embedder-proxy", "predictor", "trainer")
DASHBOARDS = ("rq-dashboard", "tensorboard")


def compose() -> list[str]:
    """The Compose at hand: 1.29's docker-compose, or the plug-in of newer engines."""
    if (old := shutil.which("docker-compose", path="/usr/bin:" + os.environ["PATH"])) is not None:
        return [old]
    return ["docker", "compose"]


class ComposeSystem:
    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.ports = free_ports() | dict(zip(DASHBOARDS, free_ports().values(), strict=False))
        self.environment = {
            **os.environ,
            "PATH": "/usr/bin:" + os.environ["PATH"],
            "COMPOSE_PROJECT_NAME": f"age-gender-test-{os.getpid()}",
            "DOCKER_BUILDKIT": "1",
            "COMPOSE_DOCKER_CLI_BUILD": "1",
            "DATA_VOLUME": str(data_dir),
            "PROXY_PORT": str(self.ports["embedder-proxy"]),
            "PREDICTOR_PORT": str(self.ports["predictor"]),
            "TRAINER_PORT": str(self.ports["trainer"]),
            "RQ_DASHBOARD_PORT": str(self.ports["rq-dashboard"]),
            "TENSORBOARD_PORT": str(self.ports["tensorboard"]),
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

    def containers(self, service: str, state: str = "running") -> list[str]:
        labels = {"project": self.environment["COMPOSE_PROJECT_NAME"], "service": service}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return docker("ps", "-q", f"--filter=status={state}", *filters).stdout.split()

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what the engine reports of an existing container."""
        return dict(json.loads(docker("inspect", container).stdout)[0])

    def wait_ready(self) -> None:
        for name in PUBLIC:
            until(lambda name=name: self._is_ready(name), f"{name} is ready", 120)

    def _is_ready(self, name: str) -> bool:
        try:
            return httpx.get(f"{self.url(name)}/health/ready", timeout=5).is_success
        except httpx.TransportError:
            return False


def docker(*words: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=seconds, check=False)
