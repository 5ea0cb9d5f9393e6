"""Start from the networks of another experiment, as the original pre-trains on IMDB-WIKI for Adience."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.spaces import Space
from safetensors.numpy import load as load_safetensors

from trainer.datasets.embedding_set import FaceLabels
from trainer.datasets.exclusiveness import Overlap, shared_faces
from trainer.experiments.experiment import Experiment
from trainer.experiments.faces import load_label_sets
from trainer.experiments.request import refused
from trainer.experiments.store import fold_dir, load_experiment
from trainer.training.config import TrainingOptions

WEIGHTS = "weights.safetensors"
Array = npt.NDArray[np.float32]


def require_head_start(
    data_dir: Path, source_id: str, datasets: list[str], space: Space, options: TrainingOptions
) -> None:
    """Raises ``invalid-request`` 422 naming `start_from`, where these cannot begin as those ended."""
    try:
        source = load_experiment(data_dir, source_id)
    except Problem as problem:
        raise _refused(problem.detail) from problem
    if not _weights_path(data_dir, source_id).exists():
        raise _refused(f"The first fold of experiment {source_id} is not trained yet.")
    if shared := sorted(_seen(data_dir, source) & set(datasets)):
        raise _refused(f"Its networks have seen {', '.join(shared)}, whose faces are to be judged here.")
    if source.space != space:
        raise _refused(f"It was trained in space {source.space}, and this is {space}.")
    for name in ("head", "tasks"):
        ours, theirs = getattr(options, name), getattr(source.options, name)
        if ours != theirs:
            raise _refused(f"Its {name} differ: {theirs}, here {ours}.")


def require_unseen(
    data_dir: Path, source_id: str, sets: Mapping[str, FaceLabels], overlap: Overlap
) -> list[str]:
    """Refuse networks that have seen faces of these data sets under another name; return warnings.

    Raises ``invalid-request`` 422 naming `start_from`, unless `overlap` is "allow".
    """
    warnings: list[str] = []
    for source in _sources(data_dir, load_experiment(data_dir, source_id)):
        try:
            seen = load_label_sets(data_dir, source.datasets, source.space, source.variant)
        except Problem:
            seen = {}
        if missing := sorted(set(source.datasets) - {name for name, one in seen.items() if one.has_hashes}):
            warnings.append(
                f"Whether the networks of {source.id} have seen these images was not checked, because "
                f"{' and '.join(missing)} is not here or was extracted without hashes of its images."
            )
        count, examples = shared_faces(seen, sets)
        if not count:
            continue
        what = f"The networks of {source.id} have seen {count} of these faces, such as {examples[0]}"
        if overlap != "allow":
            raise _refused(f'{what}. Take other data, or overlap "allow" to train all the same.')
        warnings.append(f"{what}: the figures are flattered.")
    return warnings


def read_head_start(data_dir: Path, source_id: str | None, seeds: int) -> dict[str, Array] | None:
    """Weights of its first fold's bank, for `seeds` networks; where there are fewer, they are repeated.

    None where `source_id` is, that is where the networks begin with weights drawn at random.
    """
    if source_id is None:
        return None
    weights = load_safetensors(_weights_path(data_dir, source_id).read_bytes())
    members = np.arange(seeds) % len(weights["input.mean"])
    return {name: value[members] for name, value in weights.items()}


def _seen(data_dir: Path, source: Experiment) -> set[str]:
    """Data sets that its networks, and those which they began with, were trained on."""
    return {name for one in _sources(data_dir, source) for name in one.datasets}


def _sources(data_dir: Path, source: Experiment) -> list[Experiment]:
    """The experiment and those with whose networks it, in turn, began."""
    found = [source]
    while found[-1].start_from is not None:
        found.append(load_experiment(data_dir, found[-1].start_from))
    return found


def _weights_path(data_dir: Path, source_id: str) -> Path:
    return fold_dir(data_dir, source_id, load_experiment(data_dir, source_id).folds[0]) / WEIGHTS


def _refused(detail: str) -> Problem:
    return refused("start_from", detail)
