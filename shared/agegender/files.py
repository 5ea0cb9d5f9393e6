"""Write files atomically, read files without trusting their content, and lock files among processes.

A file appears whole, by an atomic rename, and is on disk when the call returns. Readers never see a partial
file, whenever a process is killed.
"""

import json
import logging
import math
import os
import stat
import tempfile
import time
import uuid
import zipfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from safetensors.numpy import save as _safetensors_bytes

Model = TypeVar("Model", bound=BaseModel)

_LEAST_ROOM = 1024 * 1024  # bytes
MAX_JSON_BYTES = 64 * 1024**2
STALE_SECONDS = 30.0  # after which the owner of a lock on another machine is presumed dead
_LONGEST_PAUSE = 0.25  # seconds between two attempts to take a lock

log = logging.getLogger(__name__)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that is renamed to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_file(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays without pickle; object arrays are rejected. The same arrays give the same bytes.

    `numpy.savez` is not used because it writes the time and accepts no array named ``file``.
    """
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)


def write_safetensors(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_bytes(path, _safetensors_bytes(contiguous, dict(metadata or {})))


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises `OSError` and `ValueError`.

    Other files are rejected: a device has no size and no end, and opening a pipe may block for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a regular file")
        if status.st_size > most:
            raise ValueError(f"{path} has {status.st_size} bytes; expected at most {most}")
        return file.read(status.st_size)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file. Raises `OSError` and `ValueError`; NaN and infinity are rejected."""
    return _parsed(path, read_bytes(path, MAX_JSON_BYTES))


def read_model(path: Path, model: type[Model]) -> Model:
    """Return a JSON file as a model, in strict mode (text is no number). Raises `OSError`, `ValueError`."""
    content = read_bytes(path, MAX_JSON_BYTES)
    _parsed(path, content)  # fields of type Any would accept NaN, which JSON responses cannot contain
    return model.model_validate_json(content, strict=True)


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


def read_npz(path: Path, names: Container[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Read arrays written by `write_npz`. Raises `OSError` and `ValueError`.

    Files with inconsistent headers are rejected before memory is allocated; NumPy's own reader decompresses
    entries of any size and allocates what a header states.

    names : names of the arrays to read; all by default.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("its arrays are compressed")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ValueError("its arrays are larger than the file")
            for entry in entries:
                _check_header(archive, entry)
            arrays = {entry.filename.removesuffix(".npy"): entry for entry in entries}
            return {
                name: _read_entry(archive, entry)
                for name, entry in arrays.items()
                if names is None or name in names
            }
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from error


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an `.npy` file. Returns shape, whether it is in column-major order, and data type.

    Raises `ValueError`, also for the format version 3.0, which only structured arrays need.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"the .npy format version is {version}; expected (1, 0) or (2, 0)")


def _check_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    with archive.open(entry) as stream:
        shape, _, dtype = read_npy_header(stream)
        if dtype.hasobject:
            raise ValueError(f"{entry.filename} contains Python objects; expected numbers or text")
        if math.prod(shape) * dtype.itemsize != entry.file_size - stream.tell():
            raise ValueError(f"{entry.filename} does not have the size that its header states")


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(entry) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def why_not_writable(directory: Path) -> str | None:
    """Return why a directory cannot be written, without writing to it; None if it can."""
    try:
        volume = os.statvfs(directory)
    except OSError as error:
        return f"{directory} cannot be read: {error.strerror}."
    if volume.f_flag & os.ST_RDONLY:
        return f"The volume of {directory} is read-only. Work resumes by itself once it is writable."
    if volume.f_bavail * volume.f_frsize < _LEAST_ROOM:
        return f"The volume of {directory} is full. Work resumes by itself once there is space."
    return None


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
