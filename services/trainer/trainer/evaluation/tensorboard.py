"""Write a fold's curve and metrics for TensorBoard: `tensorboard --logdir DATA/experiments`."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


def write_events(fold_dir: Path, metrics: dict[str, Any]) -> None:
    """Replace `fold_dir/tensorboard/` by the content of metrics.json.

    It has the loss of each epoch, and the members' mean metrics on each split at the mean best epoch.
    """
    shutil.rmtree(fold_dir / FOLDER, ignore_errors=True)
    best = round(float(np.mean(metrics["best_epochs"])))
    with SummaryWriter(str(fold_dir / FOLDER)) as writer:
        for epoch, (train, validation) in enumerate(metrics["curve"], 1):
            writer.add_scalar("loss/train", train, epoch)
            if validation is not None:
                writer.add_scalar("loss/validation", validation, epoch)
        for split, members in metrics["splits"].items():
            for task, metrics_of_task in members[0].items():
                for name in metrics_of_task:
                    values = [member[task][name] for member in members if member[task][name] is not None]
                    if values and name not in ("faces", "floor"):
                        writer.add_scalar(f"{task} {name}/{split}", float(np.mean(values)), best)
