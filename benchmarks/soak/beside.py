"""Run training jobs during the traffic, one after the other, and sample the memory of each process."""

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
    """memory : MiB of each program, sampled every two seconds. experiments : id → state."""

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
                    time.sleep(1)  # also after the end of the traffic
                    state = client.get(f"{url}/{name}").json()["state"]
                self.experiments[name] = state

    def look(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            for name, pid in self.pids.items():
                self.memory.setdefault(name, []).append(_resident(pid))

    def growth(self) -> dict[str, tuple[int, int]]:
        """Return each program's median MiB in the second and in the last quarter; the first is a warm-up."""
        growth = {}
        for name, sizes in self.memory.items():
            quarter = max(1, len(sizes) // 4)
            early, late = sizes[quarter : 2 * quarter] or sizes, sizes[-quarter:]
            growth[name] = (round(statistics.median(early)), round(statistics.median(late)))
        return growth


@contextmanager
def beside(stack: Stack, space: Space) -> Iterator[Beside]:
    """Train and sample until the block ends, then wait for the last experiment."""
    write_embedding_set(
        stack.data_dir, "made", "images", made_up(2000, space, folds=5), {"format": "made up"}
    )
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
        return 0  # it has ended, which `restarted` reports
    return int(status.split("VmRSS:")[1].split()[0]) // 1024
