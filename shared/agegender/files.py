"""The one way in which a file appears: whole, by an atomic rename, and on disk when it returns.

Readers therefore never see half a file, whichever process is killed at whatever moment.
"""

import json
import math
import os
import stat
import tempfile
import zipfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from safetensors.numpy import save as _safetensors_bytes

Model = TypeVar("Model", bound=BaseModel)

_LEAST_ROOM = 1024 * 1024  # bytes
MAX_JSON_BYTES = 64 * 1024**2


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the name `path` only when the block ends without error."""
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
    """Write arrays without pickle: object arrays are refused. The same arrays give the same bytes.

    Not by `numpy.savez`, which stamps the time and takes no array named ``file``.
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
    """The content of a regular file. Raises `OSError`, and `ValueError` for another kind, or a larger one.

    A link to a device states no size and never ends; a pipe is waited for without end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is no regular file")
        if status.st_size > most:
            raise ValueError(f"{path} has {status.st_size} bytes; at most {most} are read")
        return file.read(status.st_size)


def read_json(path: Path) -> Any:
    """Raises `OSError`, and `ValueError` for what is no JSON that a program of ours would write."""
    return _parsed(path, read_bytes(path, MAX_JSON_BYTES))


def read_model(path: Path, model: type[Model]) -> Model:
    """The same as a model, strictly: text is no number. Raises `OSError` and `ValueError`."""
    content = read_bytes(path, MAX_JSON_BYTES)
    _parsed(path, content)  # fields that take any value would take NaN, which no answer can tell
    return model.model_validate_json(content, strict=True)


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def read_npz(path: Path, names: Container[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """What `write_npz` wrote. Raises `OSError` and `ValueError`, before it takes memory that is only claimed.

    names : of the arrays to read; by default all.
    NumPy's own reader unpacks compressed entries of any size, and allocates what a header states.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
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
    """What stands in the way of writing there, without writing; None where nothing does."""
    try:
        volume = os.statvfs(directory)
    except OSError as error:
        return f"{directory} cannot be looked at: {error.strerror}."
    if volume.f_flag & os.ST_RDONLY:
        return f"The volume of {directory} is read-only; work goes on by itself once it can be written."
    if volume.f_bavail * volume.f_frsize < _LEAST_ROOM:
        return f"The volume of {directory} is full; work goes on by itself once there is room."
    return None
