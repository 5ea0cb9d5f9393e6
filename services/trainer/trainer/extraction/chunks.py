"""A chunk: the faces of a few images, as the proxy gave them; the step from which extraction resumes."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from agegender.files import read_npz, write_npz

from trainer.datasets.embedding_set import IMAGE_HASH_BYTES, SHA256_BYTES
from trainer.extraction.state import CHUNK, Extraction


@dataclass(frozen=True)
class Chunk:
    """Outcome of `CHUNK` consecutive images of a shard (fewer at its end).

    row : [kept], int32; position in the shard of each image whose face was kept.
    embedding, embedding_mirrored : [kept, dimension], float32; mirrored has no rows where it was not wanted.
    faces : [kept], int32; how many were found in the image.
    chosen : [kept], int32; which of them was taken, in the proxy's order (largest first).
    mirror_found : [kept], bool; where False, embedding_mirrored repeats the embedding.
    file_sha256, image_hash : [kept, 32] and [kept, 64], uint8; as in `agegender.datasets.FaceLabels`. They
        have no rows in chunks that an earlier release wrote.
    removed_row : [removed], int32. reason : [removed], the `Reason`.
    """

    row: npt.NDArray[np.int32]
    embedding: npt.NDArray[np.float32]
    embedding_mirrored: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    chosen: npt.NDArray[np.int32]
    mirror_found: npt.NDArray[np.bool_]
    file_sha256: npt.NDArray[np.uint8]
    image_hash: npt.NDArray[np.uint8]
    removed_row: npt.NDArray[np.int32]
    reason: npt.NDArray[np.str_]


def chunk_paths(work: Path, extraction: Extraction, shard: bytes, images: int) -> list[Path]:
    """Return the files of all chunks of a shard, whether they exist or not.

    shard : the content of its file, with so many images. The folder is named by everything that the chunks
    depend on, so that a chunk made from other labels is never taken.
    """
    depends = [str(extraction.space), extraction.mirrored, extraction.min_det_score, extraction.kind, CHUNK]
    directory = work / hashlib.sha256(repr(depends).encode() + shard).hexdigest()[:16]
    return [directory / f"chunk-{number:04d}.npz" for number in range(-(-images // CHUNK))]


def write_chunk(path: Path, chunk: Chunk) -> None:
    write_npz(path, {field.name: getattr(chunk, field.name) for field in fields(chunk)})


def read_chunk(path: Path) -> Chunk:
    none = {
        "file_sha256": np.zeros((0, SHA256_BYTES), np.uint8),
        "image_hash": np.zeros((0, IMAGE_HASH_BYTES), np.uint8),
    }
    arrays = {**none, **read_npz(path)}
    return Chunk(**{field.name: arrays[field.name] for field in fields(Chunk)})
