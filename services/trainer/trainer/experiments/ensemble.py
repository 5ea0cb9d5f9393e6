"""How many networks a served head has."""

import numpy as np
import numpy.typing as npt

from trainer.training.config import TrainingOptions
from trainer.training.predict import task_tensors

Array = npt.NDArray[np.float32]

MAX_BYTES = 4_900_000  # of a head's file; weights are float16


def networks_that_fit(tensors: dict[str, Array]) -> int:
    """tensors : of a bank of such networks, for one task."""
    values = sum(tensor[0].size for tensor in tensors.values())
    return max(1, MAX_BYTES // (2 * int(values)))


def final_networks(bank: dict[str, Array], options: TrainingOptions, folds: int) -> int:
    """As many as all folds have together, if any task's head can hold them.

    bank : of one fold.
    """
    room = max(networks_that_fit(task_tensors(bank, options, task)) for task, _ in options.tasks)
    return min(folds * options.seeds, room)


def ensemble(banks: list[dict[str, Array]]) -> dict[str, Array]:
    """All members, or the first of every bank where all would make too large a file."""
    members = len(banks[0]["input.mean"])
    kept = max(1, min(members, networks_that_fit(banks[0]) // len(banks)))
    return {name: np.concatenate([bank[name][:kept] for bank in banks]) for name in banks[0]}
