"""Recompute hashes, subjects and folds of an extracted data set without embedding it again.

This is needed for data sets that an earlier release extracted, and whenever the grouping options or the
labels' columns `subject` and `fold` have changed. Groups of near-duplicates are kept in a file and drawn for
review.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from agegender.errors import Problem
from agegender.files import atomic_file
from agegender.images import ImageLimits, decode
from agegender.spaces import Space, recogniser_of
from PIL import Image, ImageDraw

from trainer.datasets.duplicates import hash_files
from trainer.datasets.embedding_set import (
    BadDataset,
    EmbeddingSet,
    data_path,
    read_embedding_set,
    read_labels,
    read_meta_data,
    write_embedding_set,
)
from trainer.datasets.folds import (
    Grouping,
    NearDuplicates,
    face_counts,
    found_groups,
    labelled_subjects,
    with_folds,
)
from trainer.datasets.formats import format_name, format_of
from trainer.datasets.labels import NO_FOLD, LabelledImage, checked_rows
from trainer.datasets.original import FORMAT as ORIGINAL

_SIDE, _TEXT, _PER_ROW = 96, 14, 12
_LIMITS = ImageLimits()
_RECOMPUTED = ("subjects", "near_duplicates", "folds", "warning", "gender", "age_groups", "faces_of_fold")


def grouping_for(
    data_dir: Path,
    dataset: str,
    image_set: str,
    near_duplicates: NearDuplicates | None,
    subjects_from: str | None,
) -> Grouping:
    """Return the grouping options of a request, with the subjects of another space.

    subjects_from : id of a space in which the same image set was extracted. Raises ``bad-dataset`` 409 if it
    was not.
    """
    if subjects_from is None:
        return Grouping(near_duplicates)
    try:
        # Labels do not depend on the dimension.
        other = read_labels(data_dir, dataset, Space(id=subjects_from, dimension=1), image_set)
    except (BadDataset, ValueError) as error:
        raise Problem(
            "bad-dataset",
            409,
            f"{dataset}/{image_set} has no subjects in the space {subjects_from!r} ({error}). Extract it in "
            "that space first.",
        ) from error
    subjects = dict(zip(other.file.tolist(), other.subject.tolist(), strict=True))
    return Grouping(near_duplicates, subjects, subjects_from)


def regroup(
    data_dir: Path,
    dataset: str,
    space: Space,
    image_set: str,
    *,
    near_duplicates: NearDuplicates | None = None,
    subjects_from: str | None = None,
    genders: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Recompute subjects and folds of an extracted data set, write it, and return its meta-data.

    Missing hashes are added. Subjects and folds are those of the labels as they are now, or, if the labels
    are gone, those at the extraction.

    genders : map of gender words (text → "female" or "male") with which the data set was extracted.

    Raises ``bad-dataset`` 409, ``missing-images``, ``no-recogniser`` and ``too-few-subjects`` 422.
    """
    try:
        faces = read_embedding_set(data_dir, dataset, space, image_set)
        meta_data = read_meta_data(data_dir, dataset, space, image_set)
    except BadDataset as error:
        raise Problem("bad-dataset", 409, f"{error}; extract the data set again.") from error
    folder = data_dir / dataset
    label_format = format_of(folder)
    if label_format is not None and image_set in label_format.image_sets(folder):
        images = label_format.image_dir(folder, image_set)
        read = label_format.with_gender_map(genders or {}).read(folder, image_set)
        rows = {row.file: row for row in checked_rows(read, images) if isinstance(row, LabelledImage)}
        faces = _as_labelled(faces, rows, meta_data)
        if not faces.has_hashes and format_name(meta_data) != ORIGINAL:
            hashes = hash_files(images, faces.file.tolist())
            faces = replace(faces, file_sha256=hashes.file_sha256, image_hash=hashes.image_hash)
    else:
        faces = _as_labelled(faces, {}, meta_data)
    grouping = grouping_for(data_dir, dataset, image_set, near_duplicates, subjects_from)
    faces, found = with_folds(faces, grouping)
    kept = {name: value for name, value in meta_data.items() if name not in _RECOMPUTED}
    write_groups(data_dir, dataset, image_set, faces)
    write_embedding_set(data_dir, dataset, image_set, faces, {**kept, **found, **face_counts(faces)})
    return read_meta_data(data_dir, dataset, space, image_set)


def groups_path(data_dir: Path, dataset: str, space: Space, image_set: str) -> Path:
    return data_path(data_dir, dataset, space, image_set).parent / f"near-duplicates-{image_set}.jsonl"


def read_groups(data_dir: Path, dataset: str, space: Space, image_set: str) -> list[dict[str, Any]]:
    """Return the groups of near-duplicates, largest first, as `found_groups` describes them.

    Raises ``no-groups`` 409 for a data set that an earlier release extracted.
    """
    path = groups_path(data_dir, dataset, space, image_set)
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise Problem(
            "no-groups",
            409,
            f"{dataset}/{image_set} was extracted by an earlier release; run `agegender regroup {dataset}` "
            "first.",
        ) from error


def write_groups(data_dir: Path, dataset: str, image_set: str, faces: EmbeddingSet) -> None:
    """Write one JSON line per group of near-duplicates: subject, found_by, files, lowest_cosine."""
    recogniser = recogniser_of(faces.space)
    vectors = None if recogniser is None else recogniser.vectors(faces.embedding)
    with atomic_file(groups_path(data_dir, dataset, faces.space, image_set)) as file:
        for group in found_groups(faces, vectors):
            file.write(json.dumps(group, ensure_ascii=False).encode() + b"\n")


def _as_labelled(
    faces: EmbeddingSet, rows: dict[str, LabelledImage], meta_data: dict[str, Any]
) -> EmbeddingSet:
    """Return the faces with subject and fold of the labels; subjects and folds of our own are dropped."""
    own_folds = meta_data.get("folds") == "of the data set"
    subjects: list[str] = []
    folds: list[int] = []
    for file, subject, fold in zip(
        faces.file.tolist(), labelled_subjects(faces).tolist(), faces.fold.tolist(), strict=True
    ):
        row = rows.get(file)
        if row is None:
            subjects.append(subject)
            folds.append(fold if own_folds else NO_FOLD)
        else:
            subjects.append(row.subject)
            folds.append(row.fold)
    return replace(faces, subject=np.array(subjects, np.str_), fold=np.array(folds, np.int16))


def contact_sheet(image_dir: Path, groups: Sequence[dict[str, Any]]) -> bytes:
    """Draw one row per group: how it was found, its lowest cosine, and its first twelve images.

    groups : as `found_groups` describes them. An image that cannot be read leaves its square empty. Returns
    the bytes of a JPEG file.
    """
    sheet = Image.new("RGB", (_PER_ROW * _SIDE, max(1, len(groups)) * (_SIDE + _TEXT)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, group in enumerate(groups):
        top = row * (_SIDE + _TEXT)
        cosine = group.get("lowest_cosine")
        text = f"{group['subject']}  {group['found_by']}  {len(group['files'])} faces"
        draw.text((2, top + 1), text + ("" if cosine is None else f"  cosine >= {cosine:.2f}"), fill="black")
        for column, file in enumerate(group["files"][:_PER_ROW]):
            small = _small_image(image_dir, file, _SIDE)
            if small is not None:
                sheet.paste(small, (column * _SIDE, top + _TEXT))
    if not groups:
        draw.text((2, 1), "no near-duplicates", fill="black")
    return _as_jpeg(sheet)


def thumbnail(image_dir: Path, file: str, side: int) -> bytes | None:
    """Return a JPEG file of at most `side` pixels a side; None if the image cannot be read."""
    small = _small_image(image_dir, file, side)
    return None if small is None else _as_jpeg(small)


def _as_jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return content.getvalue()


def _small_image(image_dir: Path, file: str, side: int) -> Image.Image | None:
    root = image_dir.resolve()
    path = (root / file).resolve()
    if not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > _LIMITS.max_bytes:
        return None
    try:
        image = Image.fromarray(decode(path.read_bytes(), _LIMITS))
    except (OSError, Problem):
        return None
    image.thumbnail((side, side))
    return image
