"""A trainer's API with Redis, proxy and real workers, for tests of extraction."""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from agegender.spaces import Space
from anyio.from_thread import start_blocking_portal
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from fastapi.testclient import TestClient
from trainer.app import create_trainer
from trainer.datasets.embedding_set import EmbeddingSet, read_embedding_set
from trainer.extraction.extraction import CHUNK
from trainer.jobs import KINDS
from trainer.runs.scheduler import keep_scheduling
from trainer.settings import TrainerSettings

from tests.support.embedder_double import SPACE
from tests.support.nursery import nursery
from tests.support.redis_server import RedisServer, redis_server
from tests.support.serving import serving, until
from tests.support.trainer_processes import SOON

SHARD = 2 * CHUNK


class Worker:
    """A real RQ worker process, and the processes of its jobs."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = nursery().fork("trainer.worker", environment)

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
            reconcile_seconds=0.5,
        )
        self.client = TestClient(create_trainer(self.settings))
        # Without the rest of the lifespan: the metrics of two trainers cannot share a process.
        portal = self.stack.enter_context(start_blocking_portal())
        scheduling = portal.start_task_soon(keep_scheduling, self.settings, KINDS)
        self.stack.callback(scheduling.cancel)
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

    def chunks(self) -> int:
        return len(list(self.data_dir.glob("faces/*/extract-images/*/chunk-*.npz")))

    def result(self, space: Space = SPACE) -> tuple[EmbeddingSet, bytes, bytes]:
        folder = self.data_dir / "faces" / space.id
        content = [(folder / name).read_bytes() for name in ("data-images.npz", "meta-data-images.json")]
        return read_embedding_set(self.data_dir, "faces", space, "images"), content[0], content[1]


def is_ready(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/ready").status_code == 200
    return False
