"""Describe the processor, on which results depend as much as on the code."""

import platform
import re
from pathlib import Path


def described() -> str:
    names = re.findall(r"model name\s*:\s*(.+)", _cpuinfo())
    instructions = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if name in _flags()]
    return f"{names[0] if names else platform.machine()} ({', '.join(instructions) or 'plain'})"


def _flags() -> set[str]:
    return {flag for flags in re.findall(r"flags\s*:\s*(.+)", _cpuinfo())[:1] for flag in flags.split()}


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text()
