"""Find the image files of `agegender predict`, report skipped files, and name and write the output files."""

import csv
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agegender.errors import Problem
from agegender.faces import ImageProblem
from agegender.predictions import FaceAnswer, ImageAnswer

from agegender_client.cli import OutputFile, plural, shown_path

# A file with such a name is sent even if its content is no image. The service then reports the problem.
_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_SUFFIXES |= {".heic", ".heif", ".avif"}
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
_IMAGE_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"}
_HEAD_BYTES = 32

VIDEO = "video; use agegender video FILE"
OTHER = "not an image"
EMPTY = "empty file"
HIDDEN = "hidden"
LINK = "link to a folder, not followed"
OUTPUT = "output of --annotate"
AGAIN = "given more than once"
SPECIAL = "not a regular file"

# Columns of `agegender predict --csv`; docs/serving.md describes them.
FACE_COLUMNS = (
    "file", "face", "mean", "interval_low", "interval_high", "coverage", "group", "p_female", "quality",
    "reasons", "x1", "y1", "x2", "y2", "det_score", "whole", "problem",
)  # fmt: skip


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    shown : path below the given folder, for tables and for the output file.
    """

    path: Path
    shown: Path


@dataclass
class FoundFiles:
    """Image files and skipped files.

    missed : skipped files that were given by name rather than found in a folder, or cannot be read.
    """

    files: list[ImageFile] = field(default_factory=list)
    skipped: dict[str, list[Path]] = field(default_factory=dict)
    missed: set[Path] = field(default_factory=set)

    def skip(self, path: Path, reason: str) -> str:
        self.skipped.setdefault(reason, []).append(path)
        return reason

    def unreadable(self, path: Path, error: OSError) -> str:
        self.missed.add(path)
        return self.skip(path, f"cannot be read: {error.strerror}")

    def summary(self) -> str:
        """Return a line with the number of skipped files per reason and an example; empty without any."""
        if not self.skipped:
            return ""
        reasons = [
            f"{len(paths)} {reason} ({shown_path(paths[0])}{', …' if len(paths) > 1 else ''})"
            for reason, paths in sorted(self.skipped.items(), key=lambda item: -len(item[1]))
        ]
        return f"Skipped {plural(sum(map(len, self.skipped.values())), 'file')}: {'; '.join(reasons)}."


def found_files(given: list[Path], output: Path | None = None) -> FoundFiles:
    """Find images among the given files and, recursively, in the given folders, by their content.

    With several folders, `shown` begins with the folder's name.
    """
    found, seen = FoundFiles(), set[str]()
    folders = [path for path in given if path.is_dir()]
    for path in given:
        if path.is_dir():
            prefix = Path(path.resolve().name) if len(folders) > 1 else Path()
            for file in sorted(_inside(path, found, output)):
                _add(ImageFile(file, prefix / file.relative_to(path)), found, seen)
        else:
            if _add(ImageFile(path, Path(path.name)), found, seen) not in (None, AGAIN):
                found.missed.add(path)
    return found


def planned_outputs(files: list[ImageFile], folder: Path) -> dict[Path, Path]:
    """Return the output file of each image, in the same subfolder of `folder` as the image.

    The name is ``photo-annotated.png``. If that name is taken, also for file systems that ignore case, it is
    ``photo.jpg-annotated.png``, and then numbered.
    """
    taken = {_folded(file.path.resolve()) for file in files}
    planned = {}
    for file in files:
        place = folder / file.shown.parent
        for name in _names(file.shown):
            path = place / name
            if (key := _folded(path.resolve())) not in taken:
                taken.add(key)
                planned[file.path] = path
                break
    return planned


def _names(shown: Path) -> Iterator[str]:
    yield f"{shown.stem}-annotated.png"
    yield f"{shown.name}-annotated.png"
    number = 2
    while True:
        yield f"{shown.name}-annotated-{number}.png"
        number += 1


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _inside(folder: Path, found: FoundFiles, output: Path | None) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        found.unreadable(Path(error.filename or folder), error)

    own_output = None if output is None or output.resolve() == folder.resolve() else output.resolve()
    for place, names, files in os.walk(folder, onerror=unreadable):
        here = Path(place)
        names[:] = sorted(_entered(here, names, found, own_output))
        for name in sorted(files):
            if name.startswith("."):
                found.skip(here / name, HIDDEN)
            else:
                yield here / name


def _entered(here: Path, names: list[str], found: FoundFiles, output: Path | None) -> Iterator[str]:
    checks: tuple[tuple[str, Callable[[Path], bool]], ...] = (
        (HIDDEN, lambda path: path.name.startswith(".")),
        (LINK, Path.is_symlink),
        (OUTPUT, lambda path: path.resolve() == output),
    )
    for name in names:
        reason = next((reason for reason, holds in checks if holds(here / name)), None)
        if reason is None:
            yield name
        else:
            found.skip(here / name, reason)


def _add(file: ImageFile, found: FoundFiles, seen: set[str]) -> str | None:
    """Add the file. Returns the reason if it was skipped."""
    if (place := os.path.abspath(file.path)) in seen:  # noqa: PTH100  keeps links apart from their targets
        return found.skip(file.path, AGAIN)
    seen.add(place)
    try:
        if not stat.S_ISREG(file.path.stat().st_mode):  # opening a pipe would wait for a writer
            return found.skip(file.path, SPECIAL)
        with file.path.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
    except OSError as error:
        return found.unreadable(file.path, error)
    if (reason := why_no_image(head, file.path.suffix)) is not None:
        return found.skip(file.path, reason)
    found.files.append(file)
    return None


def why_no_image(head: bytes, suffix: str) -> str | None:
    """Return why a file with these first bytes and this suffix is no image; None if it may be one."""
    if not head:
        return EMPTY
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, len(head), 4))}
        return None if brands & _IMAGE_BRANDS else VIDEO
    if head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return None
    if (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or head.startswith(b"\x1a\x45\xdf\xa3"):
        return VIDEO
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return None
    return None if suffix.lower() in _SUFFIXES else OTHER


class FaceTable:
    """A CSV file of predicted faces: one row per face, and one for an image without any.

    Rows are written as the images are predicted. As a context manager, a table that was neither finished nor
    kept is discarded.
    """

    def __init__(self, path: Path) -> None:
        self._file = OutputFile(path)
        self._images = 0
        self._rows = csv.DictWriter(self._file, FACE_COLUMNS)
        self._rows.writeheader()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.discard()

    def finish(self) -> None:
        """Give the file its name. If that fails, its rows are kept."""
        try:
            self._file.finish()
        except Problem as problem:
            problem.detail += f" The rows are in {shown_path(self._file.keep())}."
            raise

    def keep(self) -> Path | None:
        """Keep an incomplete table, beside the stated file. Returns its name; None if it has no rows."""
        return self._file.keep() if self._images else None

    def add(self, name: str, answer: ImageAnswer | ImageProblem) -> None:
        self._images += 1
        if isinstance(answer, ImageProblem):
            self._rows.writerow({"file": name, "problem": answer.problem["detail"]})
            return
        if not answer.faces:
            self._rows.writerow({"file": name, "problem": "no face"})
        for number, face in enumerate(answer.faces, 1):
            self._rows.writerow({"file": name, "face": number, **_cells(face)})


def _cells(face: FaceAnswer) -> dict[str, Any]:
    (low, high), box = face.age.interval, face.bbox
    return {
        "mean": face.age.mean,
        "interval_low": low,
        "interval_high": high,
        "coverage": face.age.coverage,
        "group": face.age.group,
        "p_female": face.gender.probability["female"],
        "quality": face.quality.score,
        "reasons": " ".join(face.quality.reasons),
        **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
        "det_score": face.det_score,
        "whole": str(face.whole).lower(),
    }
