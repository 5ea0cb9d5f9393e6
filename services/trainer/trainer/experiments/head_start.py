"""Start from the networks of another experiment, as the original pre-trains on IMDB-WIKI for Adience."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.spaces import Space
from safetensors.numpy import load as load_safetensors

from trainer.experiments.experiment import Experiment
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
    seen = set(source.datasets)
    while source.start_from is not None:
        source = load_experiment(data_dir, source.start_from)
        seen |= set(source.datasets)
    return seen


def _weights_path(data_dir: Path, source_id: str) -> Path:
    return fold_dir(data_dir, source_id, load_experiment(data_dir, source_id).folds[0]) / WEIGHTS


def _refused(detail: str) -> Problem:
    return refused("start_from", detail)
