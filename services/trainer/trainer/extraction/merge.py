"""The last step of an extraction: merge its chunks into a data set, regroup one, or import one."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import structlog
from agegender.errors import Problem
from agegender.files import atomic_file

from trainer.datasets.catalog import dataset_folder
from trainer.datasets.duplicates import ImageHashes, hash_files
from trainer.datasets.embedding_set import EmbeddingSet, FaceLabels, data_path, write_embedding_set
from trainer.datasets.folds import face_counts, with_folds
from trainer.datasets.formats import require_format
from trainer.datasets.labels import LabelledImage, Outcome, Removals
from trainer.datasets.original import import_original
from trainer.datasets.regrouping import grouping_for, regroup, write_groups
from trainer.extraction.embed import Chunk, chunk_paths, read_chunk
from trainer.extraction.extraction import Extraction, advance, attempt_dir, shard_path, work_dir
from trainer.extraction.plan import read_plan, read_removed, shard_images
from trainer.runs.attempt import Attempt

log = structlog.get_logger(__name__)

_LABELLED = ("file", "age_low", "age_high", "gender", "subject", "fold")


def run_merge(data_dir: Path, extraction: Extraction, attempt: Attempt) -> None:
    """Merge all chunks into a data set, and finish the extraction.

    Raises `GivenUp` if the attempt must stop, and the problems of `merge`.
    """
    extraction = advance(data_dir, extraction, state="merging")
    outcome = merge(data_dir, extraction)
    attempt.check()
    advance(data_dir, extraction, state="finished", problem=None, **vars(outcome))
    shutil.rmtree(work_dir(data_dir, extraction), ignore_errors=True)
    log.info("extraction finished", extraction=extraction.name, summary=outcome.summary)


def run_regroup(data_dir: Path, extraction: Extraction, attempt: Attempt) -> None:
    """Find subjects and folds of an extracted data set again. Raises as `run_merge` and `regroup` do."""
    extraction = advance(data_dir, extraction, state="merging")
    meta_data = regroup(
        data_dir,
        extraction.dataset,
        extraction.space,
        extraction.image_set,
        near_duplicates=extraction.near_duplicates,
        subjects_from=extraction.subjects_from,
        genders=extraction.genders,
    )
    attempt.check()
    advance(data_dir, extraction, state="finished", problem=None)
    shutil.rmtree(attempt_dir(data_dir, extraction), ignore_errors=True)
    log.info("regrouped", extraction=extraction.name, subjects=meta_data["subjects"])


def run_import(data_dir: Path, extraction: Extraction, attempt: Attempt) -> None:
    """Import the original project's embeddings. Raises as `run_merge` and `import_original` do."""
    extraction = advance(data_dir, extraction, state="extracting")
    faces = import_original(data_dir, extraction.dataset, extraction.image_set, extraction.space)
    attempt.check()
    outcome = Removals().outcome(faces)
    advance(data_dir, extraction, state="finished", images=faces, problem=None, **vars(outcome))
    shutil.rmtree(attempt_dir(data_dir, extraction), ignore_errors=True)
    log.info("import finished", extraction=extraction.name, summary=outcome.summary)


def merge(data_dir: Path, extraction: Extraction) -> Outcome:
    """Write the data set, its notes and its meta-data; return what was kept and removed.

    Each shard and each chunk is read once. Embeddings go through memory-mapped files, so memory does not grow
    with their number. Raises ``extraction-incomplete`` 409 and ``no-faces`` 422.
    """
    work = work_dir(data_dir, extraction)
    plan = read_plan(work)
    dimension = extraction.space.dimension
    # Sized for all images; what is not written takes no disk space.
    embedding = _memory_mapped(work / "embedding.npy", plan.images, dimension)
    mirrored = _memory_mapped(work / "mirrored.npy", plan.images if extraction.twice else 0, dimension)
    folder = data_path(data_dir, extraction.dataset, extraction.space, extraction.image_set).parent
    with Notes(folder, extraction.image_set, read_removed(work)) as notes:
        labels = _fill(work, extraction, notes, embedding, mirrored)
    kept = len(labels)
    removals = plan.removals + notes.removals
    outcome = removals.outcome(kept, [*notes.remarks(), *_unlabelled(labels)])
    if kept == 0:
        detail = f"No face of {extraction.dataset!r} can be used: {outcome.summary}.{removals.advice()}"
        raise Problem("no-faces", 422, detail, **vars(outcome))
    if not labels.has_hashes:  # some chunks were written by release 0.1.0
        labels = _with_hashes(data_dir, extraction, labels)
    unfolded = EmbeddingSet(
        **vars(labels),
        space=extraction.space,
        embedding=embedding[:kept],
        embedding_mirrored=mirrored[:kept],
    )
    try:
        grouping = grouping_for(
            data_dir,
            extraction.dataset,
            extraction.image_set,
            extraction.near_duplicates,
            extraction.subjects_from,
        )
        faces, grouped = with_folds(unfolded, grouping)
    except Problem as problem:
        problem.extra |= vars(outcome)
        raise
    write_groups(data_dir, extraction.dataset, extraction.image_set, faces)
    meta_data = {
        "dataset": extraction.dataset,
        "format": extraction.label_format,
        "image_set": extraction.image_set,
        "min_det_score": extraction.min_det_score,
        "which_faces": extraction.which_faces,
        "mirrored": extraction.mirrored,
        "varied": extraction.varied,
        "images": sum(plan.rows_of_fold.values()),
        "images_of_fold": {str(fold): rows for fold, rows in sorted(plan.rows_of_fold.items()) if fold >= 0},
        **vars(outcome),
        "several_faces": notes.several_faces,
        "mirrored_not_found": notes.mirrored_not_found,
        **grouped,
        **face_counts(faces),
    }
    write_embedding_set(data_dir, extraction.dataset, extraction.image_set, faces, meta_data)
    return outcome


def _memory_mapped(path: Path, rows: int, dimension: int) -> npt.NDArray[np.float32]:
    if rows == 0:  # an empty file cannot be mapped
        return np.zeros((0, dimension), dtype=np.float32)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dimension))


def _fill(
    work: Path,
    extraction: Extraction,
    notes: "Notes",
    embedding: npt.NDArray[np.float32],
    mirrored: npt.NDArray[np.float32],
) -> FaceLabels:
    """Copy the embeddings and write the notes; return the labels of the faces in the same order.

    The labels have no hashes if some chunks have none.
    """
    parts: list[FaceLabels] = []
    missing: list[int] = []
    hashes: list[ImageHashes] = []
    filled = 0
    for shard in range(extraction.shards):
        content = shard_path(work, shard).read_bytes()
        images = shard_images(content)
        paths = chunk_paths(work, extraction, content, len(images))
        if not all(path.is_file() for path in paths):
            missing.append(shard)
        if missing:  # nothing will be written; only look for more missing shards
            continue
        kept: list[LabelledImage] = []
        for path in paths:
            chunk = read_chunk(path)
            rows = slice(filled, filled + len(chunk.row))
            embedding[rows] = chunk.embedding
            if extraction.twice:
                mirrored[rows] = chunk.embedding_mirrored
            notes.add(images, chunk)
            kept += [images[row] for row in chunk.row]
            hashes.append(ImageHashes(chunk.file_sha256, chunk.image_hash))
            filled = rows.stop
        parts.append(_columns(kept))
    if missing:
        raise Problem(
            "extraction-incomplete",
            409,
            f"{len(missing)} of {extraction.shards} shards are not done; start the extraction again to "
            "continue from the others.",
            shards=missing[:50],
            cause=extraction.problem,
        )
    known = sum(len(part.file_sha256) for part in hashes) == filled
    return FaceLabels(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _LABELLED},
        **(
            {
                "file_sha256": np.concatenate([part.file_sha256 for part in hashes]),
                "image_hash": np.concatenate([part.image_hash for part in hashes]),
            }
            if known
            else {}
        ),
    )


def _unlabelled(labels: FaceLabels) -> Iterator[str]:
    for name, has in (("age", labels.has_age), ("gender", labels.has_gender)):
        if without := len(labels) - int(has.sum()):
            yield f"{without:,} without {name}, e.g. {labels.file[~has][0]}"


def _with_hashes(data_dir: Path, extraction: Extraction, labels: FaceLabels) -> FaceLabels:
    folder = dataset_folder(data_dir, extraction.dataset)
    images = require_format(folder).image_dir(folder, extraction.image_set)
    hashes = hash_files(images, labels.file.tolist())
    return replace(labels, file_sha256=hashes.file_sha256, image_hash=hashes.image_hash)


def _columns(images: list[LabelledImage]) -> FaceLabels:
    """Convert images to arrays, which take a fifth of their memory."""
    return FaceLabels(
        file=np.array([image.file for image in images], dtype=np.str_),
        age_low=np.array([image.age_low for image in images], dtype=np.float32),
        age_high=np.array([image.age_high for image in images], dtype=np.float32),
        gender=np.array([image.gender for image in images], dtype=np.int8),
        subject=np.array([image.subject for image in images], dtype=np.str_),
        fold=np.array([image.fold for image in images], dtype=np.int16),
    )


class Notes:
    """Write which images were removed, and which had several faces, and count both.

    `removed-<image set>.jsonl` has a line {"file", "reason"} per removed image, with "cell" if a cell of the
    labels is the reason.
    `several-faces-<image set>.jsonl` has a line {"file", "faces", "selected"} per image with several faces;
    `selected` counts from the largest, which is 0. Both files appear when the block ends.
    """

    def __init__(self, folder: Path, image_set: str, removed_by_labels: Iterable[dict[str, str]]) -> None:
        self.removals = Removals()
        self.several_faces = 0
        self.mirrored_not_found = 0
        self._first_of_several = ""
        self._stack = ExitStack()
        self._removed_by_labels = removed_by_labels
        self._paths = (folder / f"removed-{image_set}.jsonl", folder / f"several-faces-{image_set}.jsonl")

    def __enter__(self) -> Self:
        self._removed, self._several = (self._stack.enter_context(atomic_file(path)) for path in self._paths)
        for row in self._removed_by_labels:
            self._removed.write(_line(row))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, images: Sequence[LabelledImage], chunk: Chunk) -> None:
        """Add the images of one chunk; `images` are those of its shard."""
        self.mirrored_not_found += int((~chunk.mirror_found).sum())
        for row, reason in zip(chunk.removed_row, chunk.reason, strict=True):
            self.removals.add(str(reason), images[row].file)
            self._removed.write(_line({"file": images[row].file, "reason": str(reason)}))
        for row, faces, index in zip(chunk.row, chunk.faces, chunk.selected, strict=True):
            if faces > 1:
                self.several_faces += 1
                self._first_of_several = self._first_of_several or images[row].file
                note = {"file": images[row].file, "faces": int(faces), "selected": int(index)}
                self._several.write(_line(note))

    def remarks(self) -> Iterator[str]:
        """Yield what a user must know about the faces that were kept."""
        if self.several_faces:
            yield f"{self.several_faces:,} images with several faces, e.g. {self._first_of_several}"
        if self.mirrored_not_found:
            yield f"{self.mirrored_not_found:,} without a face in the mirrored or varied image"


def _line(note: dict[str, Any]) -> bytes:
    return json.dumps(note, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
