"""Optuna's journal of a search, which stays readable if a process is killed at any byte of a write.

`journal.log` has one JSON document per line. A writer that dies within a line leaves a torn last line. The
next writer would append its record to it, and Optuna 5.0.0 then raises JSONDecodeError at every later load.
So each writer, once it holds the lock, truncates the file to its last complete line.
"""

import json
import os
from pathlib import Path

import structlog
from agegender.locks import STALE_SECONDS, FileLock
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

log = structlog.get_logger(__name__)

_RECORD = b'{"op_code":'  # prefix of every record of Optuna


class JournalLock(FileLock, JournalFileOpenLock):
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
    with lock:
        _mend_joined_lines(path)
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
