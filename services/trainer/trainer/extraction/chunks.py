"""A chunk: the faces of a few images, as the proxy gave them; the step from which extraction resumes."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from agegender.files import read_npz, write_npz

from trainer.extraction.state import CHUNK, Extraction, shard_path


@dataclass(frozen=True)
class Chunk:
    """Outcome of `CHUNK` consecutive images of a shard (fewer at its end).

    row : [kept], int32; position in the shard of each image whose face was kept.
    embedding, embedding_mirrored : [kept, dimension], float32; mirrored has no rows where it was not wanted.
    faces : [kept], int32; how many were found in the image.
    chosen : [kept], int32; which of them was taken, in the proxy's order (largest first).
    mirror_found : [kept], bool; where False, embedding_mirrored repeats the embedding.
    removed_row : [removed], int32. reason : [removed], the `Reason`.
    """

    row: npt.NDArray[np.int32]
    embedding: npt.NDArray[np.float32]
    embedding_mirrored: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    chosen: npt.NDArray[np.int32]
    mirror_found: npt.NDArray[np.bool_]
    removed_row: npt.NDArray[np.int32]
    reason: npt.NDArray[np.str_]


def chunk_dir(work: Path, extraction: Extraction, shard: int) -> Path:
    """Named by everything that its chunks depend on, so that one of other labels is never taken."""
    depends = [str(extraction.space), extraction.mirrored, extraction.min_det_score, extraction.kind, CHUNK]
    content = repr(depends).encode() + shard_path(work, shard).read_bytes()
    return work / hashlib.sha256(content).hexdigest()[:16]


def chunk_paths(directory: Path, images: int) -> list[Path]:
    """Of all chunks that a shard of so many images has."""
    return [directory / f"chunk-{number:04d}.npz" for number in range(-(-images // CHUNK))]


def write_chunk(path: Path, chunk: Chunk) -> None:
    write_npz(path, {field.name: getattr(chunk, field.name) for field in fields(chunk)})


def read_chunk(path: Path) -> Chunk:
    arrays = read_npz(path)
    return Chunk(**{field.name: arrays[field.name] for field in fields(Chunk)})
