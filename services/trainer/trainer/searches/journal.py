"""Optuna's journal of a search, which stays readable if a process is killed at any byte of a write.

`journal.log` has one JSON document per line. A writer that dies within a line leaves a torn last line. The
next writer would append its record to it, and Optuna 5.0.0 then raises JSONDecodeError at every later load.
So each writer, once it holds the lock, truncates the file to its last complete line.
"""

import json
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

import structlog
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

log = structlog.get_logger(__name__)

STALE_SECONDS = 30.0  # after which the owner of a lock on another machine is presumed dead
_LONGEST_PAUSE = 0.25  # seconds between two attempts to take a lock
_RECORD = b'{"op_code":'  # prefix of every record of Optuna


class FileLock(JournalFileOpenLock):
    """A lock by exclusive creation of a file, which NFS supports from version 3.

    The file names its holder. A dead holder on this machine loses the lock at once. A holder on another
    machine, whose process cannot be observed, loses it after `stale` seconds in which the lock has not
    changed hands. The lock is renamed before it is removed, so that only one of several waiting processes
    removes it, and never a lock that another process has acquired since.

    Parameters
    ----------
    path : file of the lock.
    stale : seconds.
    """

    def __init__(self, path: Path, stale: float = STALE_SECONDS) -> None:
        self._path = path
        self._stale = stale
        self._mine = b""

    def acquire(self) -> bool:
        """Wait for the lock; return True."""
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
            log.warning("lock was lost while it was held", lock=str(self._path))

    def _create(self) -> bool:
        self._path.parent.mkdir(parents=True, exist_ok=True)
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
            log.warning("lock of a dead process removed", lock=str(self._path), holder=holder.decode())
        else:
            with suppress(OSError):  # a third process holds it by now; the first holder logs that at release
                os.link(aside, self._path)
        aside.unlink(missing_ok=True)


class JournalLock(FileLock):
    """The lock of a journal, which ends with a complete line once the lock is acquired."""

    def __init__(self, journal: Path, stale: float = STALE_SECONDS) -> None:
        super().__init__(journal.with_name(f"{journal.name}.lock"), stale)
        self._journal = journal

    def acquire(self) -> bool:
        super().acquire()
        try:
            _cut_torn_line(self._journal)
        except BaseException:
            self.release()
            raise
        return True


def open_journal(path: Path, stale: float = STALE_SECONDS) -> JournalFileBackend:
    """Open or create a journal. Repair records that release 0.1.0 appended to a torn line."""
    lock = JournalLock(path, stale)
    lock.acquire()
    try:
        _mend_joined_lines(path)
    finally:
        lock.release()
    return JournalFileBackend(str(path), lock)


def _cut_torn_line(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:
            begin = max(0, end - 4096)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            end = begin + found + 1 if found >= 0 else begin
            if found >= 0:
                break
        if end < size:
            log.warning("torn line removed from a journal", journal=str(path), bytes=size - end)
            file.truncate(end)
            os.fsync(file.fileno())


def _mend_joined_lines(path: Path) -> None:
    """Overwrite with blanks, which JSON permits, the torn record that precedes another record in its line.

    The line keeps its length, because processes that have the journal open remember where lines begin.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        begin = 0
        for line in file.read().splitlines(keepends=True):
            record = line.rfind(_RECORD)
            if not _is_json(line) and record > 0 and _is_json(line[record:]):
                file.seek(begin)
                file.write(b" " * record)
                log.warning("joined line repaired in a journal", journal=str(path), bytes=record)
            begin += len(line)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


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
