"""A volume of a few megabytes, which a test may fill up or make read-only."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_FILLER = ".filler"


@dataclass(frozen=True)
class SmallVolume:
    path: Path

    def fill(self) -> None:
        """To the last byte."""
        with (self.path / _FILLER).open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def make_room(self) -> None:
        (self.path / _FILLER).unlink()

    def make_read_only(self) -> None:
        """Make the volume read-only, as the kernel does after a disk error, despite open files."""
        self._remount("ro")

    def make_writable(self) -> None:
        self._remount("rw")

    def _remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", self.path], capture_output=True, check=True)


@contextmanager
def small_volume(path: Path, mebibytes: int) -> Iterator[SmallVolume]:
    """A tmpfs at `path`; skips the test where it cannot be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a volume that can be filled")
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no volume can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallVolume(path)
    finally:
        subprocess.run(["umount", "--lazy", path], capture_output=True, check=False)
