"""A wall clock for processes, which a test may set: libfaketime of Debian."""

from dataclasses import dataclass
from pathlib import Path

import pytest

# With the monotonic clock left alone, libfaketime 0.9.10 makes every time.sleep of Python fail.
_SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)[3:] or None\n"
_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")


@dataclass(frozen=True)
class JumpingClock:
    """environment : makes a process read this clock."""

    _file: Path
    environment: dict[str, str]

    def jump(self, seconds: int) -> None:
        """From now on, within a second, all its processes see this much more or less than the real time."""
        self._file.write_text(f"{seconds:+d}\n")


def jumping_clock(folder: Path) -> JumpingClock:
    """Skips the test where libfaketime is absent."""
    library = next(
        (path for root in _LIBRARIES if (path := Path(root, "faketime", "libfaketimeMT.so.1")).exists()), None
    )
    if library is None:
        pytest.skip("no libfaketime: apt-get install libfaketime")
    file, modules = folder / "clock", folder / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(_SLEEP)
    clock = JumpingClock(
        file,
        {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds; the file read at each call would take a core
            # A step of the wall clock moves neither the monotonic clock nor what is timed by it.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else every timed wait on a condition returns at once on Debian's build, and each of Python's
            # threads that waits for the interpreter lock takes a core.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "PYTHONPATH": str(modules),
        },
    )
    clock.jump(0)
    return clock
