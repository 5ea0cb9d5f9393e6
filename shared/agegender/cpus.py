"""How many CPUs this process may really use: in a container that is less than the machine has."""

import math
import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")


def available_cpus() -> int:
    """CPUs of the scheduler's affinity mask, cut to the cgroup's quota; at least one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, cpus if quota is None else min(cpus, math.ceil(quota)))


def _cgroup_quota() -> float | None:
    try:
        if _CGROUP_V2.exists():
            limit, period = _CGROUP_V2.read_text().split()
            return None if limit == "max" else int(limit) / int(period)
        if _CGROUP_V1.exists():
            limit = _CGROUP_V1.read_text().strip()
            period = _CGROUP_V1.with_name("cpu.cfs_period_us").read_text().strip()
            return None if int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None
    return None
