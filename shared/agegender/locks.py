"""A lock between processes that share a volume, by exclusive creation of a file."""

import logging
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

STALE_SECONDS = 30.0  # after which the owner of a lock on another machine is presumed dead
_LONGEST_PAUSE = 0.25  # seconds between two attempts to take a lock

log = logging.getLogger(__name__)


class FileLock:
    """A lock by exclusive creation of a file, which NFS supports from version 3.

    The file names its holder. A dead holder on this machine loses the lock at once. A holder on another
    machine, whose process cannot be observed, loses it after `stale` seconds in which the lock has not
    changed hands. The lock is renamed before it is removed, so that only one of several waiting processes
    removes it, and never a lock that another process has acquired since.

    Two holders exclude each other also within one process. A holder must not take its lock again.

    Parameters
    ----------
    path : file of the lock, in a folder that exists.
    stale : seconds.
    """

    def __init__(self, path: Path, stale: float = STALE_SECONDS) -> None:
        self._path = path
        self._stale = stale
        self._mine = b""

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> bool:
        """Wait for the lock; return True. Raises `OSError`, `FileNotFoundError` if the folder is absent."""
        pause, seen, since = 0.001, b"", time.monotonic()
        while not self._create():
            holder = self._holder()
            if holder != seen:
                seen, since = holder or b"", time.monotonic()
            waited = time.monotonic() - since
            if holder is not None and (_is_dead(holder) or waited > self._stale):
                self._break(holder)
                continue
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return True

    def release(self) -> None:
        """Release the lock, unless another process removed it as stale."""
        if self._holder() == self._mine:
            self._path.unlink(missing_ok=True)
        else:
            log.warning("lock %s was lost while it was held", self._path)

    def _create(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        self._mine = _identity()
        try:
            os.write(descriptor, self._mine)
        except OSError:  # disk full: an empty lock would block all others until it is stale
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return True

    def _holder(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def _break(self, holder: bytes) -> None:
        """Remove the lock of `holder`; restore a lock that another process has acquired since."""
        aside = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return
        if aside.read_bytes() == holder:
            log.warning("lock %s of a dead process removed: %s", self._path, holder.decode(errors="replace"))
        else:
            with suppress(OSError):  # a third process holds it by now; the first holder logs that at release
                os.link(aside, self._path)
        aside.unlink(missing_ok=True)


def _identity() -> bytes:
    """Identify this acquisition of the lock: machine, process, its start time and a random number."""
    pid = os.getpid()
    return f"{_machine()} {pid} {_began(pid)} {uuid.uuid4().hex}\n".encode()


def _is_dead(holder: bytes) -> bool:
    """Return whether the holder is a process of this machine that has ended; False if that is unknown."""
    parts = holder.decode(errors="replace").split()
    if len(parts) != 4 or not holder.endswith(b"\n") or parts[0] != _machine() or parts[0] == "?":
        return False
    began = _began(int(parts[1])) if parts[1].isdigit() else ""
    return began is not None and began != parts[2]


def _machine() -> str:
    """Identify the boot of this machine and the container, because each numbers its own processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return "?"


def _began(pid: int) -> str | None:
    """Return the start time of a process, in clock ticks since boot, because process numbers are reused.

    Return "" if the process has ended, None if /proc hides it.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            return None
        return None
    return "" if state in "ZX" else fields[18]
