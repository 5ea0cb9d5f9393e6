"""What goes on beside the traffic: training jobs one after the other, and a look at each process's memory."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from agegender.spaces import Space
from trainer.datasets.embedding_set import write_embedding_set

from benchmarks.training import made_up
from tools.stack import Stack

_EXPERIMENT = {
    "task": "age-gender",
    "dataset": "made",
    "seeds": 2,
    "head": {"hidden": [64]},
    "optimizer": {"epochs": 10, "batch_size": 256},
}
_LOOK_SECONDS = 2.0


@dataclass
class Beside:
    """memory : MiB of each program, a value every two seconds. experiments : state by id."""

    stack: Stack
    pids: dict[str, int]
    memory: dict[str, list[int]] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def restarted(self) -> list[str]:
        now = self.stack.pids()
        return [name for name, pid in self.pids.items() if now.get(name) != pid]

    def train(self) -> None:
        url = f"{self.stack.url('trainer')}/experiments"
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self._stop.is_set():
                created = client.post(url, json=_EXPERIMENT)
                created.raise_for_status()
                name = created.json()["id"]
                state = "queued"
                while state in ("queued", "running"):
                    time.sleep(1)  # the last one is waited for even where the traffic has ended
                    state = client.get(f"{url}/{name}").json()["state"]
                self.experiments[name] = state

    def look(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            for name, pid in self.pids.items():
                self.memory.setdefault(name, []).append(_resident(pid))

    def growth(self) -> dict[str, tuple[int, int]]:
        """MiB in the second quarter of the time and in the last, medians; the first warms up."""
        told = {}
        for name, sizes in self.memory.items():
            quarter = max(1, len(sizes) // 4)
            early, late = sizes[quarter : 2 * quarter] or sizes, sizes[-quarter:]
            told[name] = (round(statistics.median(early)), round(statistics.median(late)))
        return told


@contextmanager
def beside(stack: Stack, space: Space) -> Iterator[Beside]:
    """Both go on until the block ends; then the last experiment is waited for."""
    write_embedding_set(stack.data_dir, "made", "images", made_up(2000, space, folds=5), {"kind": "made up"})
    own = Beside(stack, stack.pids())
    threads = [threading.Thread(target=own.train), threading.Thread(target=own.look)]
    for thread in threads:
        thread.start()
    try:
        yield own
    finally:
        own._stop.set()
        for thread in threads:
            thread.join(300)


def _resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0  # it has ended, which `restarted` tells
    return int(status.split("VmRSS:")[1].split()[0]) // 1024
