"""Select and load the extracted faces that an experiment trains on, and check a request against them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.files import read_npz, write_npz
from agegender.heads.head import Task
from agegender.spaces import Space, former_default

from trainer.datasets.catalog import ExtractedSet, dataset_folder, dataset_in
from trainer.datasets.embedding_set import (
    BadDataset,
    EmbeddingSet,
    FaceLabels,
    as_recorded,
    changed_data,
    combine,
    combine_labels,
    data_path,
    face_digests,
    file_sha256,
    read_embedding_set,
    read_labels,
    read_meta_data,
    selected,
    stored_embedding_bytes,
)
from trainer.datasets.exclusiveness import Overlap, check, merged, require_exclusive
from trainer.datasets.folds import (
    groups_of,
    require_validation,
    strata_of,
    stratified_folds,
    validation_note,
    validation_split,
)
from trainer.evaluation import OutOfFold
from trainer.experiments.experiment import (
    OUT_OF_FOLD,
    Experiment,
    TrainingRequest,
    merged_subjects,
    recorded_faces,
    refused,
)
from trainer.training.config import TrainingOptions

_FEW_SUBJECTS = 500
Faces = TypeVar("Faces", bound=FaceLabels)


def choose_extraction(data_dir: Path, request: TrainingRequest) -> tuple[Space, str]:
    """Return the space that all data sets of a request share, and the image sets, for `image_sets_of`.

    Raises ``invalid-request`` 422 naming the field if there is none, or if there are several.
    """
    extracted = {name: _extracted(data_dir, name) for name in request.datasets}
    common = set.intersection(*({one.space.id for one in sets} for sets in extracted.values()))
    choices = sorted(space for space in common if request.space in (None, space))
    names = " and ".join(request.datasets)
    if not choices:
        where = f" in space {request.space!r}" if request.space else ""
        first = next((name for name, sets in extracted.items() if not sets), request.datasets[0])
        message = f"{names} has not been extracted{where}; POST /datasets/{first}/extract first."
        own = {name: sorted({one.space.id for one in sets}) for name, sets in extracted.items() if sets}
        known = "; ".join(f"{name} was extracted in {', '.join(spaces)}" for name, spaces in own.items())
        old = [f"{message} {known}."] if known else [message]
        former = [former_default(spaces, f"{name} was extracted") for name, spaces in own.items()]
        raise refused("dataset", " ".join([*old, *(one for one in former[:1] if one)]))
    if len(choices) > 1:
        message = f"{names} was extracted in several spaces; choose one of {', '.join(choices)}."
        raise refused("space", message)
    requested = image_sets_of(request.datasets, request.image_set) if request.image_set else {}
    image_sets = []
    for name, sets in extracted.items():
        existing = sorted(one.image_set for one in sets if one.space.id == choices[0])
        image_sets.append(_one_image_set(name, existing, requested.get(name)))
    space = next(one.space for one in extracted[request.datasets[0]] if one.space.id == choices[0])
    return space, image_sets[0] if len(set(image_sets)) == 1 else ",".join(image_sets)


def image_sets_of(datasets: list[str], image_set: str) -> dict[str, str]:
    """Return data set → image set; `image_set` names one for all, or one for each, separated by commas."""
    names = image_set.split(",")
    if len(names) not in (1, len(datasets)):
        message = f"Received {image_set!r}; expected one image set, or one for each of {', '.join(datasets)}."
        raise refused("image_set", message)
    return dict(zip(datasets, names * len(datasets) if len(names) == 1 else names, strict=True))


def _extracted(data_dir: Path, name: str) -> list[ExtractedSet]:
    try:
        found = dataset_in(dataset_folder(data_dir, name))
    except Problem as problem:
        raise refused("dataset", problem.detail) from problem
    if found is None:
        raise refused("dataset", f"There is no data set {name!r} under {data_dir}.")
    return found.extracted


def _one_image_set(name: str, existing: list[str], requested: str | None) -> str:
    if requested in existing:
        return str(requested)
    if requested is None and len(existing) == 1:
        return existing[0]
    received = f"Received {requested!r}" if requested else "Received none"
    raise refused("image_set", f"{received}; {name} was extracted from {', '.join(existing)}; choose one.")


def load_faces(
    data_dir: Path,
    datasets: list[str],
    space: Space,
    image_set: str,
    merged_subjects: Path | None = None,
    recorded: Path | None = None,
    data_sha256: Mapping[str, str] | None = None,
) -> EmbeddingSet:
    """Return the faces of one data set, or of several as one. Raises ``bad-dataset`` 409.

    merged_subjects : the file of `write_merged`, if overlapping faces were merged.
    recorded : the file of `record_faces`; only the faces in it are returned, in its order. The problem is
        raised if one of them has changed.
    data_sha256 : what `record_faces` returned; the faces are not compared if the files are still the same.
    """
    sets = _read(read_embedding_set, data_dir, datasets, space, image_set)
    faces = next(iter(sets.values())) if len(sets) == 1 else combine(sets)
    if merged_subjects is not None:
        faces = _with_merged(faces, merged_subjects)
    if recorded is None or data_sha256 == data_hashes(data_dir, datasets, space, image_set):
        return faces
    return as_recorded(faces, recorded, " and ".join(datasets))


def load_faces_of(data_dir: Path, experiment: Experiment) -> EmbeddingSet:
    """Return the faces that an experiment was created with, with or without a label for its task.

    Raises ``bad-dataset`` 409 if one of them has changed.
    """
    return load_faces(
        data_dir,
        experiment.datasets,
        experiment.space,
        experiment.image_set,
        merged_subjects(data_dir, experiment),
        recorded_faces(data_dir, experiment),
        experiment.data_sha256,
    )


def load_labels(data_dir: Path, datasets: list[str], space: Space, image_set: str) -> FaceLabels:
    """Return the labels of these faces, without embeddings. Raises ``bad-dataset`` 409."""
    return as_one(load_label_sets(data_dir, datasets, space, image_set))


def load_label_sets(
    data_dir: Path, datasets: list[str], space: Space, image_set: str
) -> dict[str, FaceLabels]:
    """Return the labels of each data set by name. Raises ``bad-dataset`` 409."""
    return _read(read_labels, data_dir, datasets, space, image_set)


def as_one(sets: dict[str, FaceLabels]) -> FaceLabels:
    """Combine the labels of several data sets."""
    return next(iter(sets.values())) if len(sets) == 1 else combine_labels(sets)


def exclusive_labels(
    data_dir: Path, datasets: list[str], space: Space, image_set: str, overlap: Overlap, k: int | None = None
) -> tuple[FaceLabels, dict[str, Any]]:
    """Return the labels of all data sets as one, checked, and the report of the check.

    k : number of folds to divide the subjects into; None keeps the folds of the data sets.

    If `overlap` is "merge", subjects and folds are merged, as `write_merged` stores them. Raises
    ``overlapping-faces`` 409 if `overlap` is "refuse", and ``bad-dataset`` 409.
    """
    sets = load_label_sets(data_dir, datasets, space, image_set)
    faces = as_one(sets)
    if k is not None:
        strata = strata_of(faces.age_low, faces.age_high, faces.gender)
        try:
            faces = replace(faces, fold=stratified_folds(strata, groups_of(faces.subject), k))
        except Problem as problem:
            raise refused("k", problem.detail) from problem
    result = check(faces, sets)
    if overlap == "refuse":
        require_exclusive(result)
    report = result.report(overlap)
    if overlap == "merge":
        subject, fold = merged(faces, result.group)
        report["moved"] = int((fold != faces.fold).sum())
        faces = replace(faces, subject=subject, fold=fold)
    return faces, report


def write_merged(path: Path, faces: FaceLabels) -> None:
    """Store the subjects and folds of merged data sets, so that all jobs use the same."""
    write_npz(path, {"file": faces.file, "subject": faces.subject, "fold": faces.fold})


def _with_merged(faces: EmbeddingSet, path: Path) -> EmbeddingSet:
    """Return the merged faces, in the order in which they were merged."""
    try:
        arrays = read_npz(path)
        faces = selected(faces, arrays["file"].tolist(), faces.file.tolist())
        return replace(faces, subject=arrays["subject"], fold=arrays["fold"])
    except LookupError as error:
        raise Problem(
            "bad-dataset",
            409,
            "A data set was extracted again after its subjects were merged; start the experiment again.",
        ) from error
    except (OSError, ValueError) as error:
        raise Problem("bad-dataset", 409, f"{path}: {error}; start the experiment again.") from error


def record_faces(
    path: Path, data_dir: Path, datasets: list[str], space: Space, image_set: str, faces: FaceLabels
) -> dict[str, str]:
    """Store what identifies the faces of a new run; return the SHA-256 of each data file.

    faces : labels of the data sets, with the subjects and folds that the run uses.
    """
    image_sets = image_sets_of(datasets, image_set)
    files = [data_path(data_dir, name, space, own) for name, own in image_sets.items()]
    try:
        digests = face_digests(faces, stored_embedding_bytes(files))
    except (OSError, KeyError, ValueError, BadZipFile) as error:  # it was replaced a moment ago
        names = " and ".join(datasets)
        raise Problem("bad-dataset", 409, f"{names} cannot be read ({error}); repeat the request.") from error
    write_npz(path, {"digest": digests})
    return data_hashes(data_dir, datasets, space, image_set)


def require_same_data(data_dir: Path, recorded: dict[str, str] | None, space: Space, image_set: str) -> None:
    """Raise ``bad-dataset`` 409 if a data file is not the recorded one (data set → SHA-256)."""
    if recorded and recorded != data_hashes(data_dir, list(recorded), space, image_set):
        raise changed_data(f"{' and '.join(recorded)} was extracted or grouped again.")


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
    """Return the SHA-256 of each data file, for the model card."""
    return {
        name: file_sha256(data_path(data_dir, name, space, own))
        for name, own in image_sets_of(datasets, image_set).items()
    }


def hashes_at_creation(data_dir: Path, experiment: Experiment) -> dict[str, str]:
    """Return the SHA-256 of each data file; that of today if an earlier release created the experiment."""
    return experiment.data_sha256 or data_hashes(
        data_dir, experiment.datasets, experiment.space, experiment.image_set
    )


def second_embeddings(
    data_dir: Path, datasets: list[str], space: Space, image_set: str
) -> dict[str, Literal["mirrored", "varied", "none"]]:
    """Return which image each face's second embedding is of, by data set, for the model card."""
    found: dict[str, Literal["mirrored", "varied", "none"]] = {}
    for name, own in image_sets_of(datasets, image_set).items():
        of = read_meta_data(data_dir, name, space, own)
        found[name] = "varied" if of.get("varied") else "mirrored" if of.get("mirrored") else "none"
    return found


def labelled(faces: Faces, options: TrainingOptions) -> Faces:
    """Return the faces that have a label for the task; for age-gender, a label for either."""
    known = {
        "age": faces.has_age,
        "gender": faces.has_gender,
        "age-gender": faces.has_age | faces.has_gender,
    }[options.task]
    return faces.rows(np.flatnonzero(known & (faces.fold >= 0)))


def choose_folds(faces: FaceLabels, requested: list[int] | None) -> list[int]:
    """Return the folds to hold out. Raises ``invalid-request`` 422 for a fold that the data does not have."""
    present = sorted(int(fold) for fold in np.unique(faces.fold) if fold >= 0)
    if len(present) < 2:
        raise refused("dataset", "Fewer than two folds have labelled faces, so none can be held out.")
    for fold in requested or []:
        if fold not in present:
            raise refused("folds", f"Received fold {fold}; the data has {present}.")
    return sorted(set(requested)) if requested else present


def require_validation_folds(
    faces: FaceLabels, fold_of: npt.NDArray[np.integer], folds: Iterable[int]
) -> None:
    """Raise ``invalid-request`` 422 if, with one of `folds` held out, no validation split is possible.

    fold_of : the fold [faces] that each belongs to.
    """
    for fold in folds:
        try:
            require_validation(groups_of(faces.subject[fold_of != fold]))
        except Problem as problem:
            raise refused("validation", problem.detail) from problem


def validation_warnings(
    faces: FaceLabels,
    fold_of: npt.NDArray[np.integer],
    folds: Iterable[int],
    fraction: float,
    name: str = "fold",
) -> list[str]:
    """Return a warning for each held-out fold with which the validation split is far from `fraction`.

    Only data sets of few subjects are checked, because the split of others is close to it.
    """
    warnings = []
    for fold in folds:
        groups = groups_of(faces.subject[fold_of != fold])
        if len(np.unique(groups)) <= _FEW_SUBJECTS:
            validates = validation_split(np.zeros_like(groups), groups, fraction)
            note = validation_note(int(validates.sum()), int((~validates).sum()), fraction)
            if note is not None:
                warnings.append(f"{name.capitalize()} {fold}: {note}")
    return warnings


def require_labels(
    faces: FaceLabels,
    fold_of: npt.NDArray[np.integer],
    folds: Iterable[int],
    options: TrainingOptions,
    name: str = "fold",
) -> None:
    """Raise ``invalid-request`` 422 if a task has no label to train on or to evaluate with.

    fold_of : the fold [faces] that each belongs to. Each of `folds` is held out once.
    name : of a fold in messages; a plural of it is a field of the request.
    """
    known = {Task.AGE: faces.has_age, Task.GENDER: faces.has_gender}
    for task, _ in options.tasks:
        other = Task.GENDER if task is Task.AGE else Task.AGE
        advice = f' Use "task": "{other}".' if len(options.tasks) > 1 and known[other].any() else ""
        if not known[task].any():
            raise refused("task", f"No face has a known {task}.{advice}")
        for fold in folds:
            inside = fold_of == fold
            if not known[task][inside].any():
                message = f"{name.capitalize()} {fold} has no face of known {task} to evaluate on."
            elif not known[task][~inside].any():
                message = f"All faces of known {task} are in {name} {fold}; none is left to train on."
            else:
                continue
            raise refused(f"{name.replace(' ', '_')}s", message + advice)


def read_out_of_fold(data_dir: Path, experiment: Experiment, directories: Iterable[Path]) -> OutOfFold:
    """Return the out-of-fold predictions of an experiment.

    directories : of the ensembles that predicted, each face by at most one of them.

    Raises ``bad-dataset`` 409 if the faces or their folds have changed.
    """
    faces = labelled(load_faces_of(data_dir, experiment), experiment.options)
    folds = np.unique(faces.fold)
    rows: list[npt.NDArray[np.int64]] = []
    predictions: dict[Task, list[npt.NDArray[np.float32]]] = {
        task: [] for task, _ in experiment.options.tasks
    }
    for directory in directories:
        arrays = read_npz(directory / OUT_OF_FOLD)
        # The experiments of earlier releases have no other record of their faces.
        if not any(np.array_equal(arrays["row"], np.flatnonzero(faces.fold == fold)) for fold in folds):
            names = " and ".join(experiment.datasets)
            raise changed_data(f"The faces of a fold are not those that were tested: {names} has changed.")
        rows.append(arrays["row"])
        for task, values in predictions.items():
            values.append(arrays[task.value])
    return OutOfFold(
        faces.rows(np.concatenate(rows)),
        {task: np.concatenate(values) for task, values in predictions.items()},
    )
