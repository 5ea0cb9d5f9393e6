"""A predictor as a process of its own, which a test may measure."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.serving import free_port, until


@dataclass(frozen=True)
class PredictorProcess:
    url: str
    pid: int


@contextmanager
def predictor_process(data_dir: Path, proxy_url: str) -> Iterator[PredictorProcess]:
    """Serve the heads promoted in `data_dir`."""
    port = free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "DATA_DIR": str(data_dir),
        "HEADS_DIR": str(data_dir / "none"),
        "PROXY_URL": proxy_url,
        "LOG_LEVEL": "WARNING",
    }
    process = subprocess.Popen([sys.executable, "-m", "predictor"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(f"{url}/health/ready"), "the predictor is ready", 30)
        yield PredictorProcess(url, process.pid)
    finally:
        process.terminate()
        process.wait(15)


def answers(url: str) -> bool:
    """Return whether a URL is answered with success."""
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
