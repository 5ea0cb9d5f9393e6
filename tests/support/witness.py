"""Watch each fold of an experiment from outside while it runs."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from agegender.files import read_json
from safetensors.numpy import load_file
from trainer.experiments.experiment import METRICS, fold_dir

from tests.support.trainer_processes import Trainer


@dataclass
class Witness:
    """epochs, begun : of each fold and attempt, those seen, and when (monotonic clock) it was first seen.

    ends : times at which each fold's last file was written.
    """

    epochs: dict[tuple[int, int], set[int]] = field(default_factory=lambda: defaultdict(set))
    begun: dict[tuple[int, int], float] = field(default_factory=dict)
    ends: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def attempts(self, fold: int) -> int:
        return max(attempt for seen, attempt in self.epochs if seen == fold)


def witness_to_the_end(trainer: Trainer, experiment: str, seconds: float = 600) -> Witness:
    """Look until the experiment is finished."""
    seen, ends_by = Witness(), time.monotonic() + seconds
    while time.monotonic() < ends_by:
        status = trainer.status(experiment)
        for fold in status["folds"]:
            number, attempt = int(fold["fold"]), int(fold["attempts"])
            seen.epochs[number, attempt].add(int(fold["epoch"]))
            seen.begun.setdefault((number, attempt), time.monotonic())
            path = fold_dir(trainer.data_dir, experiment, number) / METRICS
            if path.exists():
                seen.ends[number].add(path.stat().st_mtime_ns)
        if status["state"] == "finished":
            return seen
        assert status["state"] in ("queued", "running"), status
        time.sleep(0.02)
    raise AssertionError(f"not finished after {seconds} seconds: {status}")


def checkpointed_epoch(data_dir: Path, experiment: str, fold: int) -> int:
    """The last epoch that a killed attempt can resume from."""
    checkpoint = load_file(fold_dir(data_dir, experiment, fold) / "checkpoint.safetensors")
    return int(checkpoint["state.epoch"].item())


def reported_epoch(data_dir: Path, experiment: str, fold: int) -> int:
    """The epoch that the fold is at, without asking the API."""
    return int(read_json(fold_dir(data_dir, experiment, fold) / "progress.json").get("epoch", 0))
