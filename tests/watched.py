"""The peak memory of a running system's processes, and whether they are still the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools.stack import Stack

PROGRAMS = ("embedder", "embedder-proxy", "predictor", "trainer", "trainer-worker-1")
_MIB = 1024


@dataclass
class Watched:
    """MiB that each program grew by at its highest (Linux's VmHWM), and which were started anew."""

    growth: dict[str, int] = field(default_factory=dict)
    restarted: list[str] = field(default_factory=list)


@contextmanager
def watching(stack: Stack) -> Iterator[Watched]:
    """Filled in when the block ends. The worker's jobs are processes of their own, and not in it."""
    before = {name: stack.control("pid", name).strip() for name in PROGRAMS}
    resident = {}
    for name, pid in before.items():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is the present from now on
        resident[name] = _status(pid, "VmRSS")
    watched = Watched()
    yield watched
    for name, pid in before.items():
        if stack.control("pid", name).strip() != pid:
            watched.restarted.append(name)
        else:
            watched.growth[name] = (_status(pid, "VmHWM") - resident[name]) // _MIB


def _status(pid: str, name: str) -> int:
    """A size of /proc/PID/status, KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
