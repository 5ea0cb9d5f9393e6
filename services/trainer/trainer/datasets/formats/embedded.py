"""Images that are inside a table, or must be cut out of larger ones: unpacked to files before an extraction.

- Parquet shards as Hugging Face writes them: a column `struct<bytes, path>`, and names of class labels in the
  schema's metadata `huggingface`.
- A column `pixels` of grey values, as in Kaggle's `age_gender.csv` (48 × 48, derived from UTKFace).
- Boxes `face_x0`, `face_y0`, `face_x1`, `face_y1` in pixels, as in LAGENDA (Kuprashevich and Tolstykh 2023,
  arXiv:2307.04616), where one image has many persons.
"""

import io
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from agegender.errors import Problem
from agegender.files import read_json, write_bytes, write_json
from agegender.images import ImageLimits, decode
from PIL import Image

from trainer.datasets.labels import bad_labels, is_image_name, require_inside

UNPACKED = "unpacked"  # folder of the images, beside their table
_STATE = "table.json"  # the table's size and time of change when its images were unpacked
PARQUET = ".parquet"
PIXELS = "pixels"
BOX = ("face_x0", "face_y0", "face_x1", "face_y1")
MAX_ROWS = 5_000_000
_MAX_TEXT = 64 * 1024
_BATCH_BYTES = 64 * 1024**2  # that are read at a time
_MAX_COLUMN = 256 * 1024**2  # bytes of a column of labels in a row group
_MAX_IMAGES = 2 * 1024**3  # bytes of images in a row group
_MAX_SIDE = 512  # of an image in a column of pixels
_MARGIN = 0.5  # around a box, in sides of the box
_LIMITS = ImageLimits()


def cell_text(value: object) -> str:
    """Return a value of JSON or Parquet as the text that a CSV table would have."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple):
        return f"({', '.join(cell_text(part) for part in value[:100])})"[:_MAX_TEXT]
    return str(value).strip()[:_MAX_TEXT]


def unpacked_name(table: Path, number: int, suffix: str) -> str:
    """Return the name of the image of a row, relative to the table's folder."""
    return f"{UNPACKED}/{table.stem}/{number:07d}{suffix}"


def start_unpacking(table: Path) -> None:
    """Remove the images of an earlier state of a table, and note its present state.

    Images that an interrupted attempt has written stay.
    """
    place = table.parent / UNPACKED / table.stem
    status = table.stat()
    state = {"table": table.name, "bytes": status.st_size, "changed": status.st_mtime_ns}
    with suppress(OSError, ValueError):
        if read_json(place / _STATE) == state:
            return
    shutil.rmtree(place, ignore_errors=True)
    write_json(place / _STATE, state)


Check = Callable[[], None]


def _write(path: Path, content: bytes | None) -> None:
    """Write an image; one that cannot be made is missing afterwards."""
    if content:
        write_bytes(path, content)


# Parquet


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into ``bad-labels``."""
    try:
        yield
    # ArrowInvalid is a ValueError, ArrowNotImplementedError a NotImplementedError, ArrowKeyError a KeyError.
    except (OSError, ValueError, NotImplementedError, LookupError, TypeError, MemoryError) as error:
        raise bad_labels(path, f"it cannot be read as Parquet: {error}") from error


def _parquet(path: Path) -> Any:
    """Open a Parquet file. Raises ``parquet-not-installed`` 501 and ``bad-labels`` 422."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise Problem(
            "parquet-not-installed",
            501,
            f"{path.name} is a Parquet file, which needs the package pyarrow (166 MB). Install it where the "
            "trainer runs: pip install pyarrow. Or save the table as CSV, with the images as files.",
        ) from error
    require_inside(path)
    with _reading(path):
        file = pyarrow.parquet.ParquetFile(path, buffer_size=1024**2)
        names = [name.lower() for name in file.schema_arrow.names]
    if len(set(names)) < len(names):
        raise bad_labels(path, "it names a column twice")
    if file.metadata.num_rows > MAX_ROWS:
        raise bad_labels(path, f"it has more than {MAX_ROWS} rows")
    return file


def parquet_columns(path: Path) -> list[str]:
    """Return the names of a Parquet file's columns in lower case. Raises what `parquet_rows` does."""
    file = _parquet(path)
    with _reading(path):
        return [name.strip().lower() for name in file.schema_arrow.names]


def image_column(path: Path) -> str | None:
    """Return the name of the column with images, in lower case; None if there is none."""
    file = _parquet(path)
    with _reading(path):
        column = _image_column(file)
    return None if column is None else column.strip().lower()


def _image_column(file: Any) -> str | None:
    import pyarrow

    for field in file.schema_arrow:
        if pyarrow.types.is_struct(field.type):
            parts = {field.type.field(index).name for index in range(field.type.num_fields)}
            if {"bytes", "path"} <= parts:
                return str(field.name)
    return None


def parquet_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield each row as column name → text. An image is the name of the file that it is unpacked to.

    Where the file holds an image's path alone, as those that `to_parquet()` of `datasets` 5 writes, the text
    is that path. Raises ``parquet-not-installed`` 501, and ``bad-labels`` 422 if the file cannot be read.
    """
    file = _parquet(path)
    with _reading(path):
        yield from _texts(path, file)


def _texts(path: Path, file: Any) -> Iterator[dict[str, str]]:
    image = _image_column(file)
    classes = _class_names(file)
    names = [name for name in file.schema_arrow.names if name != image and _is_flat(file, name)]
    selected = [*names, f"{image}.path"] if image else names
    _check_sizes(path, file, selected, _MAX_COLUMN)
    held = _rows_with_image(file, image) if image else iter(())
    number = 0
    for batch in _batches(file, _batch_rows(file, selected, 4096), selected):
        for row in batch.to_pylist():
            texts = {
                name.strip().lower(): _class_name(classes[name], row[name])
                if name in classes
                else cell_text(row[name])
                for name in names
            }
            if image:
                where = str((row[image] or {}).get("path") or "")
                is_held = next(held, False)
                texts[image.strip().lower()] = (
                    unpacked_name(path, number, _suffix(where)) if is_held else where
                )
            yield texts
            number += 1


def unpack_parquet(path: Path, check: Check) -> None:
    """Write the images that a Parquet file holds to files, a few at a time. Calls `check` before each."""
    for number, (content, where) in enumerate(_held_images(path)):
        check()
        target = path.parent / unpacked_name(path, number, _suffix(where))
        if not target.is_file():
            _write(target, content)


def _held_images(path: Path) -> Iterator[tuple[bytes | None, str]]:
    """Yield the bytes and the path of each image."""
    file = _parquet(path)
    with _reading(path):
        if (image := _image_column(file)) is None:
            return
        held = f"{image}.bytes"
        _check_sizes(path, file, [held], _MAX_IMAGES)
        left = sum(2 * chunk.total_uncompressed_size for _, chunk in _column_chunks(file, held))
        for batch in _batches(file, _batch_rows(file, [held], 1000), [image]):
            for row in batch.column(0).to_pylist():
                left -= len((row or {}).get("bytes") or b"")
                if left < 0:
                    raise bad_labels(path, "it repeats its images so often that they exceed twice its size")
                yield (row or {}).get("bytes"), str((row or {}).get("path") or "")


def _batches(file: Any, rows: int, names: Sequence[str]) -> Iterator[Any]:
    return file.iter_batches(batch_size=rows, columns=list(names), use_threads=False)  # type: ignore[no-any-return]


def _suffix(name: str) -> str:
    return Path(name).suffix.lower() if is_image_name(Path(name).name) else ".jpg"


def _is_flat(file: Any, name: str) -> bool:
    """Return whether a column holds numbers, text or short lists, and not embeddings or other images."""
    import pyarrow

    kind = file.schema_arrow.field(name).type
    return not (pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind)) or (
        pyarrow.types.is_list(kind) and not pyarrow.types.is_nested(kind.value_type)
    )


def _class_names(file: Any) -> dict[str, list[str]]:
    """Return the names of class labels, per column, that the schema's metadata has."""
    text = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        features = json.loads(text)["info"]["features"].items()
        return {name: [str(one) for one in kind["names"]] for name, kind in features if "names" in kind}
    return {}


def _class_name(names: Sequence[str], value: object) -> str:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else ""


def _column_chunks(file: Any, name: str) -> Iterator[tuple[int, Any]]:
    """Yield the rows and the metadata of a column in each row group."""
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for index in range(group.num_columns):
            if group.column(index).path_in_schema == name:
                yield group.num_rows, group.column(index)


def _check_sizes(path: Path, file: Any, names: Sequence[str], most: int) -> None:
    for name in names:
        if any(chunk.total_uncompressed_size > most for _, chunk in _column_chunks(file, name)):
            raise bad_labels(path, f"a row group of the column {name!r} has more than {most} bytes")


def _batch_rows(file: Any, names: Sequence[str], most: int) -> int:
    """Return how many rows need at most `_BATCH_BYTES` of memory, as far as the file states its sizes.

    A value in a dictionary may be repeated in every row, so it counts as large as the dictionary may be.
    """
    largest = 1.0
    for name in names:
        for rows, chunk in _column_chunks(file, name):
            size = chunk.total_uncompressed_size
            largest = max(largest, size if chunk.has_dictionary_page else size / max(rows, 1))
    return max(1, min(most, int(_BATCH_BYTES / largest)))


def _rows_with_image(file: Any, image: str) -> Iterator[bool]:
    """Yield for each row whether its image is in the file, from statistics if there are any."""
    import pyarrow.compute

    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        chunks = [chunk for _, chunk in _column_chunks(file, f"{image}.bytes")]
        statistics = chunks[number].statistics if number < len(chunks) else None
        nulls = statistics.null_count if statistics is not None and statistics.has_null_count else None
        if nulls in (0, rows):
            yield from (nulls == 0 for _ in range(rows))
            continue
        size = _batch_rows(file, [f"{image}.bytes"], 1000)
        batches = file.iter_batches(size, row_groups=[number], columns=[f"{image}.bytes"], use_threads=False)
        for batch in batches:
            yield from pyarrow.compute.is_valid(batch.column(0).field("bytes")).to_pylist()


# Pixels and boxes


def pixels_of(text: str) -> Image.Image | None:
    """Return the square image of grey values 0 to 255 that blanks separate, None if it is none."""
    try:
        values = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        return None
    side = math.isqrt(len(values))
    if not 0 < side <= _MAX_SIDE or side * side != len(values) or values.min() < 0 or values.max() > 255:
        return None
    return Image.fromarray(values.astype(np.uint8).reshape(side, side))


def box_of(row: Mapping[str, str]) -> tuple[float, float, float, float] | None:
    """Return the face's box in a row, None if it has none (`-1`)."""
    try:
        x0, y0, x1, y1 = (float(row.get(name, "")) for name in BOX)
    except ValueError:
        return None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 - x0 < 1 or y1 - y0 < 1 or x1 <= 0 or y1 <= 0:
        return None
    return x0, y0, x1, y1


def has_pixels(text: str) -> bool:
    """Return whether a cell has as many numbers as a square image."""
    count = len(text.split())
    return 0 < count <= _MAX_SIDE**2 and math.isqrt(count) ** 2 == count


def unpack_pixels(table: Path, rows: Iterable[Mapping[str, str]], check: Check) -> None:
    """Write the image of each row as a grey PNG file. Calls `check` before each."""
    for number, row in enumerate(rows):
        check()
        target = table.parent / unpacked_name(table, number, ".png")
        if not target.is_file():
            _write(target, _encoded(pixels_of(row.get(PIXELS, "")), "PNG"))


def unpack_boxes(table: Path, rows: Iterable[tuple[int, Path, Mapping[str, str]]], check: Check) -> None:
    """Write the part of the image around each box, with the box in its middle.

    rows : number of the row, file of the image, row. An image is read once if its rows follow one another.
    check : is called before each image.
    """
    last: tuple[Path | None, Image.Image | None] = (None, None)
    for number, file, row in rows:
        check()
        target = table.parent / unpacked_name(table, number, ".jpg")
        box = box_of(row)
        if box is None or target.is_file():
            continue
        if last[0] != file:
            last = (file, _decoded(file))
        if last[1] is not None:
            _write(target, _encoded(last[1].crop(_around(box)), "JPEG"))


def _around(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Return a square around a box, with a margin; it may exceed the image, which is black there."""
    x0, y0, x1, y1 = (min(max(value, -1e5), 1e5) for value in box)
    half = min(max(x1 - x0, y1 - y0) * (0.5 + _MARGIN), 4096)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return round(x - half), round(y - half), round(x + half), round(y + half)


def _decoded(file: Path) -> Image.Image | None:
    try:
        return Image.fromarray(decode(file.read_bytes(), _LIMITS))
    except (OSError, Problem):
        return None


def _encoded(image: Image.Image | None, kind: str) -> bytes | None:
    if image is None:
        return None
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()
