"""Make the head that is served from an experiment.

The served head is the bank of all fold models, an ensemble of the cross-validation. Its temperature and
intervals are those of the out-of-fold predictions, each made by one fold's bank; the ensemble of all banks is
a little better than any of them, so the stated uncertainty errs on the safe side. A refit on all folds would
leave no faces to calibrate on.
"""

import math
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender import __version__
from agegender.errors import Problem
from agegender.files import write_json
from agegender.heads.checkpoints import heads_directory, save_head, set_current
from agegender.heads.head import Classes, HeadManifest, Task
from safetensors.numpy import load as load_safetensors

from trainer.experiments.experiment import Experiment
from trainer.experiments.faces import data_hashes
from trainer.experiments.store import REPORT, experiment_dir, fold_dir, read_optional
from trainer.reports.out_of_fold import calibrate, read_out_of_fold
from trainer.training.predict import task_tensors

Array = npt.NDArray[np.float32]

MAX_BYTES = 4_900_000  # of a head's file; weights are float16
LIMITS = (
    "An estimate of apparent age and of gender presentation in one picture. Not identity, and not for "
    "verifying anyone's age. Worse for groups that are rare in the data: see metrics by age group and gender."
)


def promote(data_dir: Path, experiment: Experiment) -> dict[str, str]:
    """Write and serve a head for each task of a finished experiment; gives task → version.

    Raises ``not-finished`` 409. Doing it again gives the same version.
    """
    directory = experiment_dir(data_dir, experiment.id)
    report = read_optional(directory / REPORT)
    if report is None:
        raise Problem(
            "not-finished", 409, f"Experiment {experiment.id} has no report yet; wait until it is finished."
        )
    folds = [int(fold) for fold in report["faces"]]
    banks = [
        load_safetensors((fold_dir(data_dir, experiment.id, fold) / "bank.safetensors").read_bytes())
        for fold in folds
    ]
    found = read_out_of_fold(data_dir, experiment, folds)
    versions: dict[str, str] = {}
    for task, classes in experiment.options.tasks:
        calibration = calibrate(found, task, classes, np.ones(len(found.faces), dtype=bool))
        tensors = _ensemble([task_tensors(bank, experiment.options, task) for bank in banks])
        version = f"{experiment.id}-{task.value}"
        manifest = HeadManifest(
            task=task,
            space=experiment.space,
            version=version,
            classes=classes,
            members=len(tensors["input.mean"]),
            architecture=experiment.options.head,
            temperature=round(calibration.temperature, 6),
            conformal=calibration.conformal,
            weights_sha256="",
            card=_card(data_dir, experiment, report, task, classes),
        )
        served = heads_directory(data_dir / "models", task, experiment.space)
        save_head(served / version, manifest, tensors)
        set_current(served, version)
        versions[task.value] = version
    write_json(directory / "promoted.json", versions)
    return versions


def _ensemble(banks: list[dict[str, Array]]) -> dict[str, Array]:
    """All members, or the first seeds of every fold where all would make too large a file."""
    values = sum(tensor[0].size for tensor in banks[0].values())
    room = max(1, MAX_BYTES // (2 * values))
    seeds = len(banks[0]["input.mean"])
    kept = max(1, min(seeds, math.floor(room / len(banks))))
    return {name: np.concatenate([bank[name][:kept] for bank in banks]) for name in banks[0]}


def _card(
    data_dir: Path, experiment: Experiment, report: dict[str, Any], task: Task, classes: Classes
) -> dict[str, Any]:
    found = {key: value for key, value in report["out_of_fold"][task.value].items() if "reliab" not in key}
    return {
        "experiment": experiment.id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": {"version": __version__, "commit": _commit()},
        "data": {
            "sets": experiment.datasets,
            "sha256": data_hashes(data_dir, experiment.datasets, experiment.space, experiment.variant),
            "faces": sum(part["test"] for part in report["faces"].values()),
        },
        "protocol": (
            f"{len(report['faces'])} folds that share no subject, {experiment.options.seeds} seeds a fold; "
            f"outputs: {classes.value}; figures are out of fold, calibrated on the other folds"
        ),
        "options": experiment.options.model_dump(mode="json"),
        "metrics": found,
        "single_networks": report["members"][task.value]["test"],
        "licence": "That of the data: faces of research-only data sets make a head for research only.",
        "limits": LIMITS,
    }


def _commit() -> str | None:
    """The checkout's commit; None in a container, where there is none."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(  # noqa: S603
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
