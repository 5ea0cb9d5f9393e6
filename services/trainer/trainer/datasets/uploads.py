"""Upload the files of a data set: they are received and unpacked in a hidden folder, and appear at once.

In <data>/.upload-<token>/, which is renamed or deleted at the end:

- received/: the files of the request;
- content/: the images and tables of the data set, zip archives unpacked.

An archive is not trusted: each entry is checked before the first is unpacked, and no more is written than the
archive's directory states.
"""

import errno
import io
import os
import shutil
import stat
import time
import unicodedata
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

import structlog
from agegender.errors import Problem

from trainer.datasets.catalog import RESERVED, not_a_dataset_name
from trainer.datasets.labels import is_image_name, is_safe_name

log = structlog.get_logger(__name__)

_GIB = 1024**3
MAX_BYTES = 8 * _GIB  # of the files of an upload
MAX_UNPACKED = 16 * _GIB  # bytes
MAX_FILES = 100_000
MAX_DIRECTORY = 16 * 1024**2  # bytes of an archive's directory, which is held in memory
RESERVE = 16 * 1024**2  # bytes of the volume that an upload leaves free
STALE_SECONDS = 600.0  # after which an unchanged upload is left over from a process that was killed

# Workbooks are not read, but the message about a folder's labels names them.
TABLES = frozenset(
    {".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".mat", ".xls", ".xlsx", ".ods"}
)
ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"})
_ADDED = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})  # by operating systems, as hidden files are
_PREFIX = ".upload-"
_CHUNK = 1024 * 1024
_MAX_COMPONENT = 200  # bytes of a file's or a folder's name; file systems take 255
_MAX_DEPTH = 16
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # others need unbounded memory, or are not decoded
_SHOWN = 100


@dataclass
class Unpacked:
    """Count what an upload contains.

    Attributes
    ----------
    images : number. tables : names. size : bytes.
    skipped : ending of files that a data set has no use for → number.
    """

    images: int = 0
    tables: list[str] = field(default_factory=list)
    size: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


class Upload:
    """The files of one request, in a folder of their own until `publish` makes them a data set.

    Use it as a context manager: whatever is not published is deleted.
    """

    def __init__(self, data_dir: Path, name: str) -> None:
        """Raise ``not-found`` 404 for a name that is not allowed, and ``dataset-exists`` 409."""
        if (problem := not_a_dataset_name(name)) is not None:
            raise problem
        if name.lower() in RESERVED:
            raise bad_upload(f"The name {name!r} is reserved for other files. Choose another name.")
        self._target = data_dir / name
        self._require_new()
        self._work = data_dir / f"{_PREFIX}{uuid.uuid4().hex}"
        self._received: list[str] = []  # names, by number of the file

    def __enter__(self) -> "Upload":
        with volume_errors():
            self._work.parent.mkdir(parents=True, exist_ok=True)
            (self._work / "received").mkdir(parents=True)
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def open(self, name: str) -> IO[bytes]:
        """Return a new file for the next file of the request. Raises ``upload-too-large`` 413."""
        if len(self._received) >= MAX_FILES:
            raise too_many_files()
        self._received.append(name)
        self._work.touch()
        return (self._work / "received" / str(len(self._received) - 1)).open("xb")

    def touch(self) -> None:
        """Show that the upload is alive."""
        self._work.touch()

    def publish(self) -> Unpacked:
        """Unpack what was received, and rename it to the data set's folder.

        Raises ``bad-upload`` 422, ``upload-too-large`` 413, ``volume-full`` 507, ``dataset-exists`` 409.
        """
        if not self._received:
            raise bad_upload("The upload has no file. Send images with a table, or a zip of them, as `file`.")
        content = _Content(self._work)
        with volume_errors():
            for number, name in enumerate(self._received):
                path = self._work / "received" / str(number)
                if _ending(name) == ".zip":
                    _unpack(path, name, content)
                else:
                    content.move(path, name)
            if not content.found.images and not content.found.tables:
                skipped = ", ".join(f"{count} {ending}" for ending, count in content.found.skipped.items())
                raise bad_upload(
                    "The upload has no image and no table. Send JPEG, PNG, WebP, BMP, GIF, TIFF, HEIC or "
                    "AVIF files, or a zip of them."
                    + (f" It has other files: {skipped[:_SHOWN]}." if skipped else "")
                )
            os.sync()  # one call for any number of files; the rename must not reach the disk before them
            self._rename(content.root())
        return content.found

    def _rename(self, content: Path) -> None:
        self._require_new()
        try:
            content.rename(self._target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                self._require_new()
            raise

    def _require_new(self) -> None:
        if os.path.lexists(self._target):
            raise Problem(
                "dataset-exists",
                409,
                f"There is a folder {self._target.name!r} in the data folder already. Choose another name.",
            )


class _Content:
    """The folder of unpacked files. Each file is checked and counted before it is written."""

    def __init__(self, work: Path) -> None:
        self._folder = work / "content"
        self._folder.mkdir()
        self._work = work
        self._names: dict[str, str] = {}  # as a file system that ignores case compares them → as given
        self._folders: set[str] = set()
        self._moved = False
        self.found = Unpacked()

    def accept(self, given: str) -> str | None:
        """Return the name of a file in the folder, or None if it is skipped. Raises ``bad-upload`` 422."""
        name = given.replace("\\", "/").removeprefix("./")
        parts = PurePosixPath(name).parts
        if ".." not in parts and any(part in _ADDED or part.startswith(".") for part in parts):
            return None
        if not is_safe_name(name):
            raise bad_upload(
                f"The file name {given[:_SHOWN]!r} leads out of the data set's folder or is not printable. "
                "Pack the files with names relative to their folder."
            )
        if len(parts) > _MAX_DEPTH or any(len(part.encode()) > _MAX_COMPONENT for part in parts):
            raise bad_upload(
                f"The file name {given[:_SHOWN]!r}… is too long or too deep. Expected at most "
                f"{_MAX_COMPONENT} bytes per name and {_MAX_DEPTH} levels."
            )
        if (ending := _ending(name)) in ARCHIVES:
            raise bad_upload(f"{given[:_SHOWN]!r} is an archive. Unpack it, or upload it alone as a zip.")
        if not is_image_name(parts[-1]) and ending not in TABLES:
            self.found.skipped[ending[:20] or "without an ending"] += 1
            return None
        self._require_unique(name)
        return name

    def _require_unique(self, name: str) -> None:
        key = unicodedata.normalize("NFC", name).casefold()
        parents = [parent.as_posix() for parent in PurePosixPath(key).parents][:-1]
        other = self._names.get(key) or next(
            (self._names[one] for one in parents if one in self._names), None
        )
        if other is not None or key in self._folders:
            raise bad_upload(
                f"The upload has two files {(other or name)[:_SHOWN]!r} and {name[:_SHOWN]!r}, which are the "
                "same on systems that ignore case. Rename one of them."
            )
        if len(self._names) >= MAX_FILES:
            raise too_many_files()
        self._names[key] = name
        self._folders.update(parents)

    def move(self, path: Path, given: str) -> None:
        """Move a received file into the folder."""
        self._moved = True
        if (name := self.accept(given)) is not None:
            self._add(name, path.stat().st_size)
            path.rename(self._place(name))

    def copy(self, source: IO[bytes], name: str, size: int) -> None:
        """Write a file of `size` bytes, for which `accept` returned the name. Raises `EOFError`."""
        self._add(name, size)
        written = 0
        with self._place(name).open("xb") as file:
            while written < size and (chunk := source.read(min(_CHUNK, size - written))):
                written += file.write(chunk)
        if written != size:
            raise EOFError(f"{name[:_SHOWN]!r} has {written} bytes")
        if not self.found.images % 64:
            self._work.touch()

    def _add(self, name: str, size: int) -> None:
        self.found.size += size
        if is_image_name(PurePosixPath(name).name):
            self.found.images += 1
        else:
            self.found.tables.append(name)

    def _place(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def root(self) -> Path:
        """Return the folder itself or, as most archives have one folder at the top, the only folder in it."""
        entries = list(self._folder.iterdir())
        if self._moved or len(entries) != 1 or not entries[0].is_dir():
            return self._folder
        top = entries[0].name + "/"
        self.found.tables = [name.removeprefix(top) for name in self.found.tables]
        return entries[0]


class _ArchiveFile(io.FileIO):
    """A file of which nothing long is read at once: `zipfile` reads a directory of any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory exceeds {MAX_DIRECTORY} bytes")
        return super().read(MAX_DIRECTORY if size is None or size < 0 else size)


def _unpack(path: Path, given: str, content: _Content) -> None:
    """Unpack an archive. Raises ``bad-upload`` 422, ``upload-too-large`` 413, ``volume-full`` 507."""
    shown = repr(given[:_SHOWN])
    try:
        with _ArchiveFile(path) as file, zipfile.ZipFile(file) as archive:
            entries = list(_checked(archive.infolist(), path.stat().st_size, shown, content))
            require_space(path, sum(entry.file_size for entry, _ in entries))
            for entry, name in entries:
                with archive.open(entry) as source:
                    content.copy(source, name, entry.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise bad_upload(
            f"{shown} cannot be unpacked: {error}. The zip is damaged, was cut off, or states wrong sizes. "
            "Pack it again."
        ) from error
    path.unlink()


def _checked(
    entries: list[zipfile.ZipInfo], size: int, shown: str, content: _Content
) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """Yield the entries that are unpacked, with their names, after a check of all of them."""
    if len(entries) > MAX_FILES:
        raise too_many_files()
    if sum(entry.file_size for entry in entries) + content.found.size > MAX_UNPACKED:
        raise Problem(
            "upload-too-large",
            413,
            f"{shown} has more than {MAX_UNPACKED / _GIB:g} GiB of files. Divide it into several data sets.",
        )
    if sum(entry.compress_size for entry in entries) > size:
        raise bad_upload(f"{shown} states that its entries are larger than the file. Pack it again.")
    for entry in entries:
        name = entry_name(entry)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if name.endswith(("/", "\\")):
            continue
        if entry.flag_bits & 0x1:
            raise bad_upload(f"{shown} is encrypted ({name[:_SHOWN]!r}). Pack it without a password.")
        if kind not in (0, stat.S_IFREG):
            raise bad_upload(f"{shown} has a link or a device, {name[:_SHOWN]!r}. Pack the files themselves.")
        if entry.compress_type not in _METHODS:
            raise bad_upload(
                f"{name[:_SHOWN]!r} in {shown} is compressed by method {entry.compress_type}; expected "
                "Deflate (8) or none (0). Pack it again with the usual method of zip."
            )
        if (accepted := content.accept(name)) is not None:
            yield entry, accepted


def entry_name(entry: zipfile.ZipInfo) -> str:
    """Return the name of an entry; macOS writes UTF-8 without its flag."""
    if not entry.flag_bits & 0x800:
        with suppress(UnicodeError):
            return entry.filename.encode("cp437").decode("utf-8")
    return entry.filename


def require_space(path: Path, size: int) -> None:
    """Raise ``volume-full`` 507 unless the volume has `size` bytes and `RESERVE` free."""
    free = shutil.disk_usage(path).free - RESERVE
    if size > free:
        raise _volume_full(
            f"The upload needs {size / 1e6:,.0f} MB, and the volume has {max(0, free) / 1e6:,.0f} MB to "
            "spare."
        )


@contextmanager
def volume_errors() -> Iterator[None]:
    """Raise ``volume-full`` 507 if a write fails because the volume is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _volume_full("The volume became full during the upload.") from error
        raise


def _volume_full(reason: str) -> Problem:
    detail = f"{reason} Nothing was stored. Free space on the volume of the data folder, and upload again."
    return Problem("volume-full", 507, detail)


def bad_upload(detail: str) -> Problem:
    return Problem("bad-upload", 422, detail)


def too_many_files() -> Problem:
    detail = f"The upload has more than {MAX_FILES:,} files. Divide it into several data sets."
    return Problem("upload-too-large", 413, detail)


def delete_stale_uploads(data_dir: Path) -> None:
    """Delete what a process left that was killed during an upload."""
    for path in data_dir.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                log.warning("left-over upload deleted", folder=path.name)
                shutil.rmtree(path, ignore_errors=True)


def _ending(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower()
