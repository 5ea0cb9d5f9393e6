"""Complete an extracted data set without embedding anything: hashes, subjects and folds, and their files.

Needed for data sets that an earlier release extracted, and whenever the grouping or the labels' columns
`subject` and `fold` have changed.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from agegender.datasets import (
    BadDataset,
    EmbeddingSet,
    data_path,
    read_embedding_set,
    read_labels,
    read_meta_data,
    write_embedding_set,
)
from agegender.errors import Problem
from agegender.files import atomic_file
from agegender.spaces import Space

from trainer.datasets.duplicates import recogniser_of
from trainer.datasets.grouping import AUTOMATIC, Grouping, found_groups, with_folds
from trainer.datasets.image_hashes import hash_files
from trainer.datasets.meta_data import face_counts
from trainer.datasets.original_files import KIND as ORIGINAL
from trainer.extraction.state import NearDuplicates, read_state
from trainer.labels.kinds import kind_of
from trainer.labels.labelled import NO_FOLD, LabelledImage, checked_rows

_WRITTEN_ANEW = ("subjects", "near_duplicates", "folds", "warning", "gender", "age_groups", "faces_of_fold")


def grouping_for(
    data_dir: Path,
    dataset: str,
    variant: str,
    near_duplicates: NearDuplicates | None,
    subjects_from: str | None,
) -> Grouping:
    """The grouping that a request asks for, with the subjects of another space.

    subjects_from : id of a space in which the same data set and variant were extracted. Raises
    ``bad-dataset`` 409 if they were not.
    """
    if subjects_from is None:
        return Grouping(near_duplicates)
    try:
        # The dimension is not needed for labels.
        other = read_labels(data_dir, dataset, Space(id=subjects_from, dimension=1), variant)
    except (BadDataset, ValueError) as error:
        raise Problem(
            "bad-dataset",
            409,
            f"{dataset}/{variant} has no subjects in the space {subjects_from!r} ({error}); extract it "
            "there first.",
        ) from error
    subjects = dict(zip(other.file.tolist(), other.subject.tolist(), strict=True))
    return Grouping(near_duplicates, subjects, subjects_from)


def regroup(
    data_dir: Path,
    dataset: str,
    space: Space,
    variant: str,
    *,
    near_duplicates: NearDuplicates | None = None,
    subjects_from: str | None = None,
) -> dict[str, Any]:
    """Find subjects and folds of an extracted data set anew and write it; return its meta-data.

    Hashes are added if they lack. Subjects and folds are those of the labels as they are now; where the
    labels cannot be read, those that the data set was extracted with.

    Raises ``bad-dataset`` 409, ``missing-images``, ``no-recogniser`` and ``too-few-subjects`` 422.
    """
    try:
        faces = read_embedding_set(data_dir, dataset, space, variant)
        meta_data = read_meta_data(data_dir, dataset, space, variant)
    except BadDataset as error:
        raise Problem("bad-dataset", 409, f"{error}; extract the data set again.") from error
    folder = data_dir / dataset
    kind = kind_of(folder)
    if kind is not None and variant in kind.variants(folder):
        images = kind.image_dir(folder, variant)
        state = read_state(data_dir, dataset, space.id, variant)
        read = kind.reading({} if state is None else state.genders).read(folder, variant)
        rows = {row.file: row for row in checked_rows(read, images) if isinstance(row, LabelledImage)}
        faces = _as_labelled(faces, rows, meta_data)
        if not faces.has_hashes and meta_data.get("kind") != ORIGINAL:
            hashes = hash_files(images, faces.file.tolist())
            faces = replace(faces, file_sha256=hashes.file_sha256, image_hash=hashes.image_hash)
    else:
        faces = _as_labelled(faces, {}, meta_data)
    grouping = grouping_for(data_dir, dataset, variant, near_duplicates, subjects_from)
    faces, found = with_folds(faces, grouping)
    kept = {name: value for name, value in meta_data.items() if name not in _WRITTEN_ANEW}
    write_groups(data_dir, dataset, variant, faces)
    write_embedding_set(data_dir, dataset, variant, faces, {**kept, **found, **face_counts(faces)})
    return read_meta_data(data_dir, dataset, space, variant)


def groups_path(data_dir: Path, dataset: str, space: Space, variant: str) -> Path:
    return data_path(data_dir, dataset, space, variant).parent / f"near-duplicates-{variant}.jsonl"


def read_groups(data_dir: Path, dataset: str, space: Space, variant: str) -> list[dict[str, Any]]:
    """The groups of near-duplicates, largest first.

    Raises ``no-groups`` 409 for a data set that an earlier release extracted.
    """
    path = groups_path(data_dir, dataset, space, variant)
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise Problem(
            "no-groups",
            409,
            f"{dataset}/{variant} was extracted by an earlier release; run `agegender regroup {dataset}` "
            "first.",
        ) from error


def write_groups(data_dir: Path, dataset: str, variant: str, faces: EmbeddingSet) -> None:
    """Write a line for each group of near-duplicates: subject, found_by, files, lowest_cosine."""
    recogniser = recogniser_of(faces.space)
    vectors = None if recogniser is None else recogniser.vectors(faces.embedding)
    with atomic_file(groups_path(data_dir, dataset, faces.space, variant)) as file:
        for group in found_groups(faces, vectors):
            file.write(json.dumps(group, ensure_ascii=False).encode() + b"\n")


def _as_labelled(
    faces: EmbeddingSet, rows: dict[str, LabelledImage], meta_data: dict[str, Any]
) -> EmbeddingSet:
    """Take subject and fold from the labels; found subjects and made folds are dropped."""
    own_folds = meta_data.get("folds") == "of the data set"
    subjects: list[str] = []
    folds: list[int] = []
    for file, subject, fold in zip(
        faces.file.tolist(), faces.subject.tolist(), faces.fold.tolist(), strict=True
    ):
        row = rows.get(file)
        if row is None:
            subjects.append("" if subject.startswith(AUTOMATIC) else subject)
            folds.append(fold if own_folds else NO_FOLD)
        else:
            subjects.append(row.subject)
            folds.append(row.fold)
    return replace(faces, subject=np.array(subjects, np.str_), fold=np.array(folds, np.int16))
