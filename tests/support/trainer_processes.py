"""A trainer's API and workers as processes of their own, which a test may kill, cut off or stop."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from redis import Redis
from rq.serializers import JSONSerializer
from rq.worker import Worker
from trainer.datasets.embedding_set import write_embedding_set

from tests.support.made_faces import made_faces
from tests.support.nursery import Forked, nursery
from tests.support.redis_server import redis_server
from tests.support.serving import free_port, until

REQUEST = {
    "task": "age-gender",
    "dataset": "made",
    "seeds": 2,
    "head": {"hidden": [32]},
    "optimizer": {"epochs": 6, "batch_size": 64},
}
ONE_FOLD_EPOCHS = 70
ONE_FOLD = {
    **REQUEST,
    "folds": [0],
    "optimizer": {"epochs": ONE_FOLD_EPOCHS, "patience": ONE_FOLD_EPOCHS, "batch_size": 16},
}
TWO_FOLDS = {**ONE_FOLD, "folds": [0, 1]}

# A worker's death is noticed within seconds; tests/contract/test_trainer_liveness.py has the real values.
SOON = {
    "TRAINER_HEARTBEAT_SECONDS": "1",  # so a worker is presumed dead after 3
    "TRAINER_RECONCILE_SECONDS": "1",
}

Process = subprocess.Popen[bytes] | Forked


class Trainer:
    """environment : variables beside those that place it. data_dir : `root`/data unless it is given."""

    def __init__(
        self, root: Path, redis_url: str, port: int, *, data_dir: Path | None = None, **environment: str
    ) -> None:
        self.data_dir = data_dir or root / "data"
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            **os.environ,
            "DATA_DIR": str(self.data_dir),
            "REDIS_URL": redis_url,
            "TRAINER_PORT": str(port),
            **SOON,
            "LOG_LEVEL": "WARNING",
            **environment,
        }
        self.processes: list[Process] = []
        self.api: Process | None = None
        self.http = httpx.Client(base_url=self.url, timeout=60)
        write_embedding_set(self.data_dir, "made", "images", made_faces(600), {"kind": "made up"})

    def start(
        self, module: str, *prefix: str, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program of the trainer.

        prefix : a command that runs the process, such as one that enters a network namespace.
        """
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", module],
            env={**self.environment, **(environment or {})},
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def start_worker(self) -> Forked:
        """Start a worker from the session's nursery, which saves the seconds of its imports."""
        worker = nursery().fork("trainer.worker", self.environment)
        self.processes.append(worker)
        return worker

    def start_api(self, *, forked: bool = True) -> Process:
        """Start the API in the same way, or as a new process, and wait until it is ready."""
        if forked:
            self.api = nursery().fork("trainer", self.environment)
            self.processes.append(self.api)
        else:
            self.api = self.start("trainer")
        api = self.api
        until(lambda: self.ready() or api.poll() is not None, "the trainer is ready", 240, 0.1)
        assert api.poll() is None, "the trainer ended; see its output"
        return api

    def ready(self) -> bool:
        try:
            return self.http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_for_workers(self) -> None:
        """Until each worker that was started listens to the queue."""
        redis = Redis.from_url(self.environment["REDIS_URL"])
        started = {process.pid for process in self.workers}

        def listening() -> set[int | None]:
            return {worker.pid for worker in Worker.all(connection=redis, serializer=JSONSerializer)}

        until(lambda: started <= listening(), "the workers listen", 240, 0.1)

    def kill(self, process: Process) -> None:
        """With its children, at once; a job's process has a process group of its own."""
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        victims: list[psutil.Process | Process] = [*children, process]
        for victim in victims:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                victim.kill()
        process.wait(10)
        self.processes.remove(process)

    @property
    def workers(self) -> list[Process]:
        return [process for process in self.processes if process is not self.api]

    def jobs(self) -> list[psutil.Process]:
        """Return the processes of the jobs that run now."""
        found: list[psutil.Process] = []
        for worker in self.workers:
            with suppress(psutil.NoSuchProcess):
                found += psutil.Process(worker.pid).children(recursive=True)
        return [job for job in found if job.is_running() and job.status() != psutil.STATUS_ZOMBIE]

    def stop(self) -> None:
        for process in list(self.processes):
            self.kill(process)

    def create(self, request: dict[str, Any], **headers: str) -> str:
        answer = self.http.post("/experiments", json=request, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def status(self, experiment: str) -> dict[str, Any]:
        return dict(self.http.get(f"/experiments/{experiment}").json())

    def wait(self, experiment: str, seconds: float = 600) -> dict[str, Any]:
        until(lambda: self.status(experiment)["state"] not in ("queued", "running"), "it ends", seconds, 0.1)
        status = self.status(experiment)
        assert status["state"] == "finished", status
        return status

    def wait_for_epoch(self, experiment: str, epoch: int) -> None:
        def epochs() -> int:
            return max(int(fold["epoch"]) for fold in self.status(experiment)["folds"])

        until(lambda: epochs() >= epoch, "it trains", 240, 0.05)

    def attempts(self, experiment: str) -> int:
        """At its first fold."""
        return int(self.status(experiment)["folds"][0]["attempts"])

    def figures(self, experiment: str) -> dict[str, Any]:
        report = self.http.get(f"/experiments/{experiment}/report?format=json").json()
        return {key: value for key, value in report.items() if key != "experiment"}


@contextmanager
def running_trainer(root: Path, **environment: str) -> Iterator[Trainer]:
    """With a Redis of its own, its API started, no worker yet."""
    with redis_server(root) as server:
        trainer = Trainer(root, server.url, free_port(), data_dir=None, **environment)
        try:
            trainer.start_api()
            yield trainer
        finally:
            trainer.stop()
