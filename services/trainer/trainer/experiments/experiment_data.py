"""Which extracted faces an experiment trains on."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.files import read_npz, write_npz
from agegender.heads.head import Task
from agegender.spaces import Space

from trainer.datasets.catalog import ExtractedSet, dataset_folder, dataset_in
from trainer.datasets.embedding_set import (
    BadDataset,
    EmbeddingSet,
    FaceLabels,
    combine,
    combine_labels,
    data_path,
    file_sha256,
    read_embedding_set,
    read_labels,
)
from trainer.datasets.exclusiveness import Overlap, check, described, merged, require_exclusive
from trainer.datasets.folds import groups_of, require_validation, validation_note, validation_split
from trainer.evaluation.calibration import OutOfFold
from trainer.experiments.experiment import OUT_OF_FOLD, Experiment, TrainingRequest, merged_subjects, refused
from trainer.training.config import TrainingOptions

_FEW_SUBJECTS = 500
Faces = TypeVar("Faces", bound=FaceLabels)


def choose_extraction(data_dir: Path, request: TrainingRequest) -> tuple[Space, str]:
    """The space that all data sets of a request were extracted in, and the image_set, for `image_sets_of`.

    Raises ``invalid-request`` 422 naming the field, where there is none or where there are several.
    """
    extracted = {name: _extracted(data_dir, name) for name in request.datasets}
    common = set.intersection(*({one.space.id for one in sets} for sets in extracted.values()))
    choices = sorted(space for space in common if request.space in (None, space))
    names = " and ".join(request.datasets)
    if not choices:
        wanted = f" in space {request.space!r}" if request.space else ""
        first = next((name for name, sets in extracted.items() if not sets), request.datasets[0])
        told = f"{names} has not been extracted{wanted}; POST /datasets/{first}/extract first."
        raise refused("dataset", told)
    if len(choices) > 1:
        told = f"{names} was extracted in several spaces; choose one of {', '.join(choices)}."
        raise refused("space", told)
    wanted_image_sets = image_sets_of(request.datasets, request.image_set) if request.image_set else {}
    image_sets = []
    for name, sets in extracted.items():
        there = sorted(one.image_set for one in sets if one.space.id == choices[0])
        image_sets.append(_one_image_set(name, there, wanted_image_sets.get(name)))
    space = next(one.space for one in extracted[request.datasets[0]] if one.space.id == choices[0])
    return space, image_sets[0] if len(set(image_sets)) == 1 else ",".join(image_sets)


def image_sets_of(datasets: list[str], image_set: str) -> dict[str, str]:
    """Data set → folder of images; `image_set` is one for all, or one for each with commas between."""
    names = image_set.split(",")
    if len(names) not in (1, len(datasets)):
        raise refused("image_set", f"One folder of images, or one for each of {', '.join(datasets)}.")
    return dict(zip(datasets, names * len(datasets) if len(names) == 1 else names, strict=True))


def _extracted(data_dir: Path, name: str) -> list[ExtractedSet]:
    try:
        found = dataset_in(dataset_folder(data_dir, name))
    except Problem as problem:
        raise refused("dataset", problem.detail) from problem
    if found is None:
        raise refused("dataset", f"There is no data set {name!r} under {data_dir}.")
    return found.extracted


def _one_image_set(name: str, there: list[str], wanted: str | None) -> str:
    if wanted in there:
        return str(wanted)
    if wanted is None and len(there) == 1:
        return there[0]
    asked = f"not from {wanted!r} but" if wanted else "several folders,"
    raise refused("image_set", f"{name} was extracted from {asked} {', '.join(there)}; choose one of these.")


def load_faces(
    data_dir: Path, datasets: list[str], space: Space, image_set: str, merged_subjects: Path | None = None
) -> EmbeddingSet:
    """The faces of one data set, or of several as one. Raises ``bad-dataset`` 409.

    merged_subjects : the file of `write_merged`, if overlapping faces were merged.
    """
    sets = _read(read_embedding_set, data_dir, datasets, space, image_set)
    faces = next(iter(sets.values())) if len(sets) == 1 else combine(sets)
    return faces if merged_subjects is None else _with_merged(faces, merged_subjects)


def load_faces_of(data_dir: Path, experiment: Experiment) -> EmbeddingSet:
    """Return the faces of an experiment, with or without a label for its task. Raises ``bad-dataset`` 409."""
    merged = merged_subjects(data_dir, experiment)
    return load_faces(data_dir, experiment.datasets, experiment.space, experiment.image_set, merged)


def load_labels(data_dir: Path, datasets: list[str], space: Space, image_set: str) -> FaceLabels:
    """The same without the embeddings, for who does not train."""
    return as_one(load_label_sets(data_dir, datasets, space, image_set))


def load_label_sets(
    data_dir: Path, datasets: list[str], space: Space, image_set: str
) -> dict[str, FaceLabels]:
    """The labels of each data set, by name. Raises ``bad-dataset`` 409."""
    return _read(read_labels, data_dir, datasets, space, image_set)


def as_one(sets: dict[str, FaceLabels]) -> FaceLabels:
    return next(iter(sets.values())) if len(sets) == 1 else combine_labels(sets)


def exclusive_labels(
    data_dir: Path, datasets: list[str], space: Space, image_set: str, overlap: Overlap
) -> tuple[FaceLabels, dict[str, Any]]:
    """The labels of all data sets as one, checked, and what is kept of the check.

    With `overlap` "merge" their subjects and folds are those that `write_merged` writes. Raises
    ``overlapping-faces`` 409 with "refuse", and ``bad-dataset`` 409.
    """
    sets = load_label_sets(data_dir, datasets, space, image_set)
    faces = as_one(sets)
    result = check(faces, sets)
    if overlap == "refuse":
        require_exclusive(result)
    report = result.report(overlap)
    if overlap == "merge":
        subject, fold = merged(faces, result.group)
        report["moved"] = int((fold != faces.fold).sum())
        faces = replace(faces, subject=subject, fold=fold)
    return faces, report


def exclusiveness_warnings(report: dict[str, Any]) -> list[str]:
    """What the check of `exclusive_labels` found without refusing it, and what it could not check."""
    warnings = []
    if report["found"] and report["overlap"] == "allow":
        warnings.append(f"In several folds or under several subjects are {described(report['found'])}.")
    if report["found"] and report["overlap"] == "merge":
        warnings.append(
            f"Merged were {described(report['found'])}; {report['moved']:,} faces changed their fold."
        )
    warnings += [
        f"Copies of images in {name} were not sought, because it was extracted without their hashes; run "
        f"`agegender regroup {name}`."
        for name in report["not_checked"]
    ]
    return warnings


def write_merged(path: Path, faces: FaceLabels) -> None:
    """Keep the subjects and folds of merged data sets, so that all jobs use the same."""
    write_npz(path, {"file": faces.file, "subject": faces.subject, "fold": faces.fold})


def _with_merged(faces: EmbeddingSet, path: Path) -> EmbeddingSet:
    try:
        arrays = read_npz(path)
        same = np.array_equal(arrays["file"], faces.file)
    except (OSError, KeyError, ValueError) as error:
        raise Problem("bad-dataset", 409, f"{path}: {error}; start the experiment again.") from error
    if not same:
        raise Problem(
            "bad-dataset",
            409,
            "A data set was extracted again after its subjects were merged; start the experiment again.",
        )
    return replace(faces, subject=arrays["subject"], fold=arrays["fold"])


def _read(
    read: Callable[[Path, str, Space, str], Faces],
    data_dir: Path,
    datasets: list[str],
    space: Space,
    image_set: str,
) -> dict[str, Faces]:
    try:
        return {
            name: read(data_dir, name, space, own) for name, own in image_sets_of(datasets, image_set).items()
        }
    except BadDataset as error:
        raise Problem("bad-dataset", 409, f"{error}; extract the data set again.") from error


def data_hashes(data_dir: Path, datasets: list[str], space: Space, image_set: str) -> dict[str, str]:
    """SHA-256 of each data file, for the model card."""
    return {
        name: file_sha256(data_path(data_dir, name, space, own))
        for name, own in image_sets_of(datasets, image_set).items()
    }


def labelled(faces: Faces, options: TrainingOptions) -> Faces:
    """The faces that have a label for the task; for age and gender together, either."""
    known = {
        "age": faces.has_age,
        "gender": faces.has_gender,
        "age-gender": faces.has_age | faces.has_gender,
    }[options.task]
    return faces.rows(np.flatnonzero(known & (faces.fold >= 0)))


def choose_folds(faces: FaceLabels, wanted: list[int] | None) -> list[int]:
    """Raises ``invalid-request`` 422 for a fold that the data does not have."""
    present = sorted(int(fold) for fold in np.unique(faces.fold) if fold >= 0)
    if len(present) < 2:
        raise refused("dataset", "Fewer than two folds have labelled faces; nothing can be left out.")
    for fold in wanted or []:
        if fold not in present:
            raise refused("folds", f"There is no fold {fold}; there are {present}.")
    return sorted(set(wanted)) if wanted else present


def require_validation_parts(
    faces: FaceLabels, part_of: npt.NDArray[np.integer], parts: Iterable[int]
) -> None:
    """Raises ``invalid-request`` 422 where a validation part cannot be taken from all but one of `parts`.

    part_of : the part [faces] that each belongs to.
    """
    for part in parts:
        try:
            require_validation(groups_of(faces.subject[part_of != part]))
        except Problem as problem:
            raise refused("validation", problem.detail) from problem


def validation_warnings(
    faces: FaceLabels,
    part_of: npt.NDArray[np.integer],
    parts: Iterable[int],
    fraction: float,
    kind: str = "fold",
) -> list[str]:
    """Say beside which held-out parts the validation split will be far from `fraction`.

    A look at the sizes alone, which is quick: it says nothing about data sets of more than a few subjects.
    """
    warnings = []
    for part in parts:
        groups = groups_of(faces.subject[part_of != part])
        if len(np.unique(groups)) <= _FEW_SUBJECTS:
            validates = validation_split(np.zeros_like(groups), groups, fraction)
            note = validation_note(int(validates.sum()), int((~validates).sum()), fraction)
            if note is not None:
                warnings.append(f"{kind.capitalize()} {part}: {note}")
    return warnings


def require_labels(
    faces: FaceLabels,
    part_of: npt.NDArray[np.integer],
    parts: Iterable[int],
    options: TrainingOptions,
    kind: str = "fold",
) -> None:
    """Raises ``invalid-request`` 422 where, one of `parts` left out, no label of a task would teach or judge.

    part_of : the part [faces] that each belongs to. kind : what the request calls a part.
    """
    known = {Task.AGE: faces.has_age, Task.GENDER: faces.has_gender}
    for task, _ in options.tasks:
        other = Task.GENDER if task is Task.AGE else Task.AGE
        advice = f' Take "task": "{other}".' if len(options.tasks) > 1 and known[other].any() else ""
        if not known[task].any():
            raise refused("task", f"No face has a known {task}.{advice}")
        for part in parts:
            inside = part_of == part
            if not known[task][inside].any():
                told = f"{kind.capitalize()} {part} has no face of known {task} to judge by."
            elif not known[task][~inside].any():
                told = f"All faces of known {task} are in {kind} {part}; none is left to learn from."
            else:
                continue
            raise refused(f"{kind}s", told + advice)


def read_out_of_fold(data_dir: Path, experiment: Experiment, directories: Iterable[Path]) -> OutOfFold:
    """directories : of the banks that predicted; each face by at most one of them."""
    faces = labelled(load_faces_of(data_dir, experiment), experiment.options)
    rows: list[npt.NDArray[np.int64]] = []
    parts: dict[Task, list[npt.NDArray[np.float32]]] = {task: [] for task, _ in experiment.options.tasks}
    for directory in directories:
        arrays = read_npz(directory / OUT_OF_FOLD)
        rows.append(arrays["row"])
        for task, values in parts.items():
            values.append(arrays[task.value])
    return OutOfFold(
        faces.rows(np.concatenate(rows)),
        {task: np.concatenate(values) for task, values in parts.items()},
    )
