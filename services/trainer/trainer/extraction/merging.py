"""From chunks to the extracted data set, in the order of the labels."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from agegender.datasets import EmbeddingSet, FaceLabels, data_path, write_embedding_set
from agegender.errors import Problem

from trainer.datasets.grouping import with_folds
from trainer.datasets.meta_data import face_counts
from trainer.extraction.chunks import chunk_dir, chunk_paths, read_chunk
from trainer.extraction.notes import Notes
from trainer.extraction.planning import read_plan, read_removed, read_shard
from trainer.extraction.state import Extraction, work_dir
from trainer.labels.labelled import LabelledImage


def unfinished_shards(work: Path, extraction: Extraction) -> list[int]:
    """Shards of which a chunk is missing."""
    return [
        shard
        for shard in range(extraction.shards)
        if not all(path.is_file() for path in _chunk_files(work, extraction, shard))
    ]


def merge(data_dir: Path, extraction: Extraction) -> int:
    """Write the data set, its notes and its meta-data; gives the number of faces.

    Embeddings go through memory-mapped files, so that memory does not grow with them.
    Raises ``extraction-incomplete`` 409 and ``no-faces`` 422.
    """
    work = work_dir(data_dir, extraction)
    if missing := unfinished_shards(work, extraction):
        raise Problem(
            "extraction-incomplete",
            409,
            f"{len(missing)} of {extraction.shards} shards are not done; start the extraction again to "
            "go on from what is.",
            shards=missing[:50],
            cause=extraction.problem,
        )
    kept = sum(
        len(read_chunk(path).row)
        for shard in range(extraction.shards)
        for path in _chunk_files(work, extraction, shard)
    )
    if kept == 0:
        raise Problem("no-faces", 422, f"No face was found in the images of {extraction.dataset!r}.")
    dimension = extraction.space.dimension
    embedding = _memory_mapped(work / "embedding.npy", kept, dimension)
    mirrored = _memory_mapped(work / "mirrored.npy", kept if extraction.mirrored else 0, dimension)
    folder = data_path(data_dir, extraction.dataset, extraction.space, extraction.variant).parent
    plan = read_plan(work)
    with Notes(folder, extraction.variant, read_removed(work)) as notes:
        labels = _fill(work, extraction, notes, embedding, mirrored)
    faces, told = with_folds(
        EmbeddingSet(**vars(labels), space=extraction.space, embedding=embedding, embedding_mirrored=mirrored)
    )
    meta_data = {
        "dataset": extraction.dataset,
        "kind": extraction.kind,
        "variant": extraction.variant,
        "min_det_score": extraction.min_det_score,
        "mirrored": extraction.mirrored,
        "images": sum(plan.rows_of_fold.values()),
        "images_of_fold": {str(fold): rows for fold, rows in sorted(plan.rows_of_fold.items()) if fold >= 0},
        "removed": dict(sorted((plan.removed + notes.removed).items())),
        "several_faces": notes.several_faces,
        "mirrored_not_found": notes.mirrored_not_found,
        **told,
        **face_counts(faces),
    }
    write_embedding_set(data_dir, extraction.dataset, extraction.variant, faces, meta_data)
    return kept


def _chunk_files(work: Path, extraction: Extraction, shard: int) -> list[Path]:
    return chunk_paths(chunk_dir(work, extraction, shard), len(read_shard(work, shard)))


def _memory_mapped(path: Path, rows: int, dimension: int) -> npt.NDArray[np.float32]:
    if rows == 0:  # an empty file cannot be mapped
        return np.zeros((0, dimension), dtype=np.float32)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dimension))


def _fill(
    work: Path,
    extraction: Extraction,
    notes: Notes,
    embedding: npt.NDArray[np.float32],
    mirrored: npt.NDArray[np.float32],
) -> FaceLabels:
    """Copy the embeddings, write the notes; gives the labels of the faces in the same order."""
    parts: list[FaceLabels] = []
    filled = 0
    for shard in range(extraction.shards):
        images = read_shard(work, shard)
        kept: list[LabelledImage] = []
        for path in chunk_paths(chunk_dir(work, extraction, shard), len(images)):
            chunk = read_chunk(path)
            rows = slice(filled, filled + len(chunk.row))
            embedding[rows] = chunk.embedding
            if extraction.mirrored:
                mirrored[rows] = chunk.embedding_mirrored
            notes.add(images, chunk)
            kept += [images[row] for row in chunk.row]
            filled = rows.stop
        parts.append(_columns(kept))
    return FaceLabels(
        **{
            column.name: np.concatenate([getattr(part, column.name) for part in parts])
            for column in fields(FaceLabels)
        }
    )


def _columns(images: list[LabelledImage]) -> FaceLabels:
    """A fifth of the memory that the images themselves take."""
    return FaceLabels(
        file=np.array([image.file for image in images], dtype=np.str_),
        age_low=np.array([image.age_low for image in images], dtype=np.float32),
        age_high=np.array([image.age_high for image in images], dtype=np.float32),
        gender=np.array([image.gender for image in images], dtype=np.int8),
        subject=np.array([image.subject for image in images], dtype=np.str_),
        fold=np.array([image.fold for image in images], dtype=np.int16),
    )
