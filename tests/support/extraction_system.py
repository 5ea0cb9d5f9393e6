"""A trainer's API with Redis, proxy and real workers, for tests of extraction."""

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from agegender.keys import Scope
from agegender.spaces import Space
from agegender_service.app import create_app
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from fastapi import FastAPI
from fastapi.testclient import TestClient
from trainer.datasets.embedding_set import EmbeddingSet, read_embedding_set
from trainer.extraction.extraction import CHUNK
from trainer.routes.datasets import router
from trainer.runs.queue import connect, give_up_dead_jobs, job_queue
from trainer.settings import TrainerSettings

from tests.support.embedder_double import SPACE
from tests.support.redis_server import RedisServer, redis_server
from tests.support.serving import serving, until
from tests.support.trainer_processes import SOON
from tests.support.worker_nursery import nursery

SHARD = 2 * CHUNK


class Worker:
    """A real RQ worker process, and the processes of its jobs."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = nursery().fork(environment)

    def kill(self) -> None:
        with suppress(psutil.NoSuchProcess):  # it is dead already
            for job in psutil.Process(self.process.pid).children(recursive=True):
                job.kill()
            self.process.kill()
        self.process.wait(10)


class System:
    """A trainer's API with its data folder, Redis, proxy and as many workers as a test starts."""

    def __init__(self, stack: ExitStack, root: Path) -> None:
        self.data_dir = root / "data"
        self.data_dir.mkdir(parents=True)
        self.stack = stack
        self.redis: RedisServer = stack.enter_context(redis_server(root))

    def start_proxy(self, embedder_url: str) -> None:
        proxy = create_proxy(ProxySettings(embedder_urls=[embedder_url], cache_ttl=0, probe_interval=0.1))
        url = self.stack.enter_context(serving(proxy))
        self.settings = TrainerSettings(
            data_dir=self.data_dir,
            redis_url=self.redis.url,
            proxy_url=url,
            heartbeat_seconds=1,
        )
        app = create_app(
            self.settings,
            name="trainer",
            description="",
            scope=Scope.TRAIN,
            lifespan=_lifespan,
            why_not_ready=_ready,
            info=_info,
        )
        app.include_router(router)
        app.state.settings, app.state.redis = self.settings, connect(self.settings)
        self.client = TestClient(app)
        until(lambda: is_ready(url), "the proxy has found its embedder", 60)

    def start_worker(self) -> Worker:
        environment = {
            **os.environ,
            "DATA_DIR": str(self.data_dir),
            "REDIS_URL": self.redis.url,
            "PROXY_URL": self.settings.proxy_url,
            **SOON,
        }
        worker = Worker(environment)
        self.stack.callback(worker.kill)
        return worker

    def extract(self, name: str = "faces", **options: Any) -> dict[str, Any]:
        answer = self.client.post(f"/datasets/{name}/extract", json={"shard_size": SHARD, **options})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def extraction(self, name: str = "faces") -> dict[str, Any]:
        (status,) = self.client.get(f"/datasets/{name}").json()["extractions"]
        return dict(status)

    def ended(self, name: str = "faces", seconds: float = 90) -> dict[str, Any]:
        over = ("finished", "failed", "cancelled")
        until(lambda: self.extraction(name)["state"] in over, "the extraction ends", seconds)
        return self.extraction(name)

    def until_dead_workers_are_noticed(self, running: int = 0) -> None:
        """Do what the API's loop does until no more than `running` jobs count as running."""
        queue = job_queue(connect(self.settings), self.settings)

        def noticed() -> bool:
            give_up_dead_jobs(queue)
            return bool(queue.started_job_registry.count <= running)

        until(noticed, "the jobs of dead workers are given up", 60)

    def chunks(self) -> int:
        return len(list(self.data_dir.glob("faces/*/extract-images/*/chunk-*.npz")))

    def result(self, space: Space = SPACE) -> tuple[EmbeddingSet, bytes, bytes]:
        folder = self.data_dir / "faces" / space.id
        content = [(folder / name).read_bytes() for name in ("data-images.npz", "meta-data-images.json")]
        return read_embedding_set(self.data_dir, "faces", space, "images"), content[0], content[1]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


async def _ready() -> str | None:
    return None


async def _info() -> dict[str, Any]:
    return {}


def is_ready(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/ready").status_code == 200
    return False
