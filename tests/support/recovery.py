"""The time after a fault within which the system must work again."""

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
    defaults = TrainerSettings.model_construct()
    heartbeat, reconcile = (float(SOON[f"TRAINER_{name}_SECONDS"]) for name in ("HEARTBEAT", "RECONCILE"))
    sooner = 3 * (defaults.heartbeat_seconds - heartbeat) + defaults.reconcile_seconds - reconcile
    return PROMISED - sooner


def recovers_in_time(cause: Callable[[], float], family: Callable[[], Iterable[int]]) -> float:
    """Return the seconds that the system needed after the fault that `cause` causes and measures.

    The bound is `promised_seconds`, or `PROMISED` if the machine was busy with others' work before the fault;
    it stretches no further. In the second case a fault that took longer is caused again, at most twice.

    family : IDs of the processes whose work is not others'.
    """
    for _attempt in range(_ATTEMPTS):
        others = _share_of_others(family())
        seconds = cause()
        bound = promised_seconds() if others < _BUSY else PROMISED
        if seconds < bound or others < _BUSY:
            break
    assert seconds < bound, f"{seconds:.1f} s, not {bound:.0f}, while others used {others:.0%} of the cores"
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
