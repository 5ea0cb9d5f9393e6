"""How soon after a fault the system must work again."""

import os

PROMISED = 30.0  # seconds


def recovery_seconds() -> float:
    """The promise; as much longer as others keep this machine's CPUs from us."""
    return PROMISED * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
