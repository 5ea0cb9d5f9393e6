"""How soon after a fault the system must work again."""

import os
import time
from collections.abc import Callable, Iterable

import psutil
from trainer.settings import TrainerSettings

from tests.support.trainer_processes import SOON

PROMISED = 30.0  # seconds, at the default settings
_ATTEMPTS = 3
_BUSY = 0.5  # of all cores, used by others: then a fault that took too long is caused again


def promised_seconds() -> float:
    """Return the promise, less the seconds by which the tests' settings notice a death sooner."""
    names = ("presumed_dead_seconds", "reconcile_seconds")
    defaults = sum(float(TrainerSettings.model_fields[name].default) for name in names)
    return PROMISED - defaults + sum(float(SOON[f"TRAINER_{name.upper()}"]) for name in names)


def recovers_in_time(cause: Callable[[], float], family: Callable[[], Iterable[int]]) -> float:
    """Return the seconds that the system needed after the fault that `cause` causes and measures.

    The bound is fixed. A fault that took longer is caused again if the machine was busy with others' work
    before it, and at most twice.

    family : IDs of the processes whose work is not others'.
    """
    for _attempt in range(_ATTEMPTS):
        others = _share_of_others(family())
        seconds = cause()
        if seconds < promised_seconds() or others < _BUSY:
            break
    assert seconds < promised_seconds(), f"{seconds:.1f} s, while others used {others:.0%} of the cores"
    return seconds


def _share_of_others(family: Iterable[int]) -> float:
    """Look for a second."""
    own = [psutil.Process(pid) for pid in {os.getpid(), *family}]
    own += [child for process in own for child in process.children(recursive=True)]
    started, spent = psutil.cpu_times(), _spent(own)
    time.sleep(1)
    ended, spent = psutil.cpu_times(), _spent(own) - spent
    busy = sum(ended) - sum(started) - (ended.idle - started.idle) - (ended.iowait - started.iowait)
    return max(0.0, busy - spent) / (os.cpu_count() or 1)


def _spent(processes: list[psutil.Process]) -> float:
    spent = 0.0
    for process in set(processes):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent += times.user + times.system
    return spent
