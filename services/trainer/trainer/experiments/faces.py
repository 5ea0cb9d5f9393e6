"""Which extracted faces an experiment trains on."""

from pathlib import Path

import numpy as np
from agegender.datasets import BadDataset, EmbeddingSet, data_path, file_sha256, read_embedding_set
from agegender.errors import Problem
from agegender.spaces import Space

from trainer.datasets.catalog import dataset_in
from trainer.datasets.combine import combine
from trainer.experiments.request import TrainingRequest, refused
from trainer.labels.kinds import dataset_folder
from trainer.training.config import TrainingOptions


def choose_extraction(data_dir: Path, request: TrainingRequest) -> tuple[Space, str]:
    """The space and variant that all data sets of a request were extracted in.

    Raises ``invalid-request`` 422 naming the field, where there is none or where there are several.
    """
    common: set[tuple[str, str]] | None = None
    spaces: dict[str, Space] = {}
    for name in request.datasets:
        try:
            found = dataset_in(dataset_folder(data_dir, name))
        except Problem as problem:
            raise refused("dataset", problem.detail) from problem
        if found is None:
            raise refused("dataset", f"There is no data set {name!r} under {data_dir}.")
        own = set()
        for extracted in found.extracted:
            spaces[extracted.space.id] = extracted.space
            own.add((extracted.space.id, extracted.variant))
        common = own if common is None else common & own
    choices = sorted(
        (space, variant)
        for space, variant in common or set()
        if request.space in (None, space) and request.variant in (None, variant)
    )
    names = " and ".join(request.datasets)
    if not choices:
        wanted = f" in space {request.space!r}" if request.space else ""
        raise refused(
            "dataset",
            f"{names} has not been extracted{wanted}; POST /datasets/{request.datasets[0]}/extract first.",
        )
    if len({space for space, _ in choices}) > 1:
        raise refused("space", f"{names} was extracted in several spaces; choose one of "
                       + ", ".join(sorted({space for space, _ in choices})) + ".")  # fmt: skip
    if len(choices) > 1:
        raise refused("variant", f"{names} was extracted from several folders; choose one of "
                       + ", ".join(variant for _, variant in choices) + ".")  # fmt: skip
    space_id, variant = choices[0]
    return spaces[space_id], variant


def load_faces(data_dir: Path, datasets: list[str], space: Space, variant: str) -> EmbeddingSet:
    """The faces of one data set, or of several as one. Raises ``bad-dataset`` 409."""
    try:
        sets = {name: read_embedding_set(data_dir, name, space, variant) for name in datasets}
    except BadDataset as error:
        raise Problem("bad-dataset", 409, f"{error}; extract the data set again.") from error
    return next(iter(sets.values())) if len(sets) == 1 else combine(sets)


def data_hashes(data_dir: Path, datasets: list[str], space: Space, variant: str) -> dict[str, str]:
    """SHA-256 of each data file, for the model card."""
    return {name: file_sha256(data_path(data_dir, name, space, variant)) for name in datasets}


def labelled(faces: EmbeddingSet, options: TrainingOptions) -> EmbeddingSet:
    """The faces that have a label for the task; for age and gender together, either."""
    known = {
        "age": faces.has_age,
        "gender": faces.has_gender,
        "age-gender": faces.has_age | faces.has_gender,
    }[options.task]
    return faces.rows(np.flatnonzero(known & (faces.fold >= 0)))


def choose_folds(faces: EmbeddingSet, wanted: list[int] | None) -> list[int]:
    """Raises ``invalid-request`` 422 for a fold that the data does not have."""
    present = sorted(int(fold) for fold in np.unique(faces.fold) if fold >= 0)
    if len(present) < 2:
        raise refused("dataset", "Fewer than two folds have labelled faces; nothing can be left out.")
    for fold in wanted or []:
        if fold not in present:
            raise refused("folds", f"There is no fold {fold}; there are {present}.")
    return sorted(set(wanted)) if wanted else present
