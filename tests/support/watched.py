"""The peak memory of a running system's processes, and whether they are still the same.

Pages of mapped files do not count: the kernel takes those of a process at rest, and brings them back when the
process works, which looked like growth.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tools.stack import Stack

WORKERS = ("trainer-worker-1", "trainer-worker-2")
PROGRAMS = ("embedder", "embedder-proxy", "predictor", "trainer", *WORKERS)
JOBS = "jobs"
_MIB = 1024
_LOOK_SECONDS = 0.1


@dataclass
class Watched:
    """MiB that each program grew by at its highest, and which were restarted.

    Under `JOBS` stands the most that one of the workers' jobs had beyond its worker, from which it is forked.
    """

    growth: dict[str, int] = field(default_factory=dict)
    restarted: list[str] = field(default_factory=list)


@contextmanager
def watching(stack: Stack) -> Iterator[Watched]:
    """A system with two workers; filled in when the block ends."""
    running = stack.pids()
    before = {name: running[name] for name in PROGRAMS}
    at_rest = {}
    for name, pid in before.items():
        forget_peak(pid)
        at_rest[name] = resident(pid)
    watched = Watched()
    with _watching_jobs([before[name] for name in WORKERS], watched):
        yield watched
    running = stack.pids()
    for name, pid in before.items():
        if running.get(name) != pid:
            watched.restarted.append(name)
        else:
            watched.growth[name] = int(peak(pid) - at_rest[name])


@contextmanager
def _watching_jobs(workers: list[int], watched: Watched) -> Iterator[None]:
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            for worker in workers:
                with suppress(OSError, StopIteration, psutil.Error):  # it ended while we looked
                    inherited = _status(worker, "RssAnon")
                    for job in psutil.Process(worker).children(recursive=True):
                        growth = (_status(job.pid, "VmHWM") - inherited) // _MIB
                        watched.growth[JOBS] = max(growth, watched.growth.get(JOBS, 0))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def resident(pid: int) -> float:
    """Return the memory that a process has now, in MiB."""
    return _status(pid, "RssAnon") / _MIB


def forget_peak(pid: int) -> None:
    """Let `peak` count from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> float:
    """Return the most memory that a process has had since `forget_peak`, in MiB."""
    return (_status(pid, "VmHWM") - _status(pid, "RssFile")) / _MIB


def _status(pid: int, name: str) -> int:
    """A size of /proc/PID/status, KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
