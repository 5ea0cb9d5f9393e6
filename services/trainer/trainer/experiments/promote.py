"""Serve an experiment: write a head for each task, and make it the current one.

The head is the ensemble of all folds' members or, if the experiment was also trained on all faces and that is
better out of fold, the ensemble trained on all. Temperature and intervals come from the out-of-fold
predictions of the same recipe. Those are made by fewer members or from fewer faces, so the stated uncertainty
errs on the safe side.
"""

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender import __version__
from agegender.errors import Problem
from agegender.files import read_npz, write_json
from agegender.heads.head import (
    MAX_WEIGHT_BYTES,
    Classes,
    Head,
    HeadManifest,
    Task,
    heads_directory,
    save_head,
    set_current,
    without_dead_features,
)
from agegender.spaces import Space
from safetensors.numpy import load as load_safetensors

from trainer.evaluation import calibrate, task_tensors
from trainer.experiments.experiment import (
    BANK,
    METRICS,
    OUT_OF_FOLD,
    PROMOTED,
    Experiment,
    experiment_dir,
    fold_dir,
    is_finished,
    refit_dir,
)
from trainer.experiments.experiment_data import (
    hashes_at_creation,
    labelled,
    load_faces_of,
    read_out_of_fold,
    second_embeddings,
)
from trainer.runs.run import REPORT, read_optional
from trainer.training.config import TrainingOptions

Array = npt.NDArray[np.float32]

MAX_BYTES = 4_900_000  # of a head's file, unless one network per fold needs more; weights are float16
_OTHER_BYTES = 2**20  # of a head's file that are no network: its header, and statistics of familiarity

LIMITS = (
    "Estimates apparent age and gender presentation in one image. Not for identification, and not for "
    "verifying anyone's age. Less accurate for groups that are rare in the data: see the metrics by age "
    "group and gender."
)
DOMAIN = {
    "intended": "Faces like those of the data sets that this card names.",
    "elsewhere": (
        "On faces that are rare in these data sets, or from other cameras, prints or populations, expect "
        "larger errors. The answer's familiarity is then near 0, and the interval up to three years wider on "
        "each side, without a guarantee of its coverage. Measure the accuracy on faces of your own."
    ),
}


def promote(data_dir: Path, experiment: Experiment) -> dict[str, str]:
    """Write and serve a head for each task of an experiment that has its report; return task → version.

    A repeated call returns the same versions, unless the refits have been done since. Raises ``not-finished``
    409.
    """
    versions: dict[str, str] = {}
    for head in built_heads(data_dir, experiment):
        task, version = head.manifest.task, head.manifest.version
        heads = heads_directory(data_dir / "models", task, experiment.space)
        save_head(heads / version, head.manifest, head.tensors)
        (other,) = {*head_versions(experiment, task)} - {version}
        set_current(heads, version, instead_of=other)
        versions[task.value] = version
    write_json(experiment_dir(data_dir, experiment.id) / PROMOTED, versions)
    return versions


def built_heads(data_dir: Path, experiment: Experiment) -> Iterator[Head]:
    """Yield the head of each task that a promotion would serve. Raises ``not-finished`` 409."""
    report = require_report(data_dir, experiment)
    refitted, judges, served = served_banks(data_dir, experiment, report)
    faces = head_faces(data_dir, experiment, report)
    banks = [load_safetensors((directory / BANK).read_bytes()) for directory in served]
    found = read_out_of_fold(data_dir, experiment, judges)
    for task, classes in experiment.options.tasks:
        calibration = calibrate(found, task, classes, np.ones(len(found.faces), dtype=bool))
        tensors = ensemble([task_tensors(bank, experiment.options, task) for bank in banks])
        manifest = HeadManifest(
            task=task,
            space=experiment.space,
            version=_version(experiment, task, refitted),
            classes=classes,
            members=len(tensors["input.mean"]),
            architecture=experiment.options.head,
            temperature=round(calibration.temperature, 6),
            conformal=calibration.conformal,
            familiarity=calibration.familiarity is not None,
            weights_sha256="",
            card=_card(data_dir, experiment, report, task, classes, refitted, faces[task]),
        )
        statistics = calibration.familiarity.tensors if calibration.familiarity else {}
        named = {**tensors, **statistics}.items()
        floats = {name: tensor.astype(np.float32) for name, tensor in named}
        yield Head(manifest, without_dead_features(floats))


@dataclass(frozen=True)
class HeadFaces:
    """The faces behind the head of a task.

    Attributes
    ----------
    trained : number with a label for the task that any served network was trained on.
    folds : those that were held out and tested.
    tested_sha256 : hash of the names of the tested faces with a label for the task.
    tested : number tested, with a label for any task of the experiment.
    labelled : number in all folds, with a label for any task of the experiment.
    """

    trained: int
    folds: list[int]
    tested_sha256: str
    tested: int
    labelled: int


def head_faces(data_dir: Path, experiment: Experiment, report: dict[str, Any]) -> dict[Task, HeadFaces]:
    """Return the faces of each head that a promotion would serve. Raises ``bad-dataset`` 409."""
    faces = labelled(load_faces_of(data_dir, experiment), experiment.options)
    folds = sorted(map(int, report["faces"]))
    trained = np.full(len(faces), _of_all_faces(data_dir, experiment))
    most = len(faces)
    for fold in folds:
        arrays = read_npz(fold_dir(data_dir, experiment.id, fold) / OUT_OF_FOLD, ["validation"])
        others = faces.fold != fold
        if "validation" in arrays:
            others[arrays["validation"]] = False
        elif not trained.all():  # an earlier release trained the fold, and stored only the number
            most = min(most, sum(part["train"] for part in report["faces"].values()))
        trained |= others
    tested = np.isin(faces.fold, folds)
    found = {}
    for task, _ in experiment.options.tasks:
        known = faces.has_age if task is Task.AGE else faces.has_gender
        names = "\0".join(sorted(faces.file[tested & known].tolist()))
        found[task] = HeadFaces(
            trained=min(most, int((trained & known).sum())),
            folds=folds,
            tested_sha256=hashlib.sha256(names.encode(errors="surrogatepass")).hexdigest(),
            tested=int(tested.sum()),
            labelled=len(faces),
        )
    return found


def require_report(data_dir: Path, experiment: Experiment) -> dict[str, Any]:
    """Return the report of an experiment. Raises ``not-finished`` 409."""
    report: dict[str, Any] | None = read_optional(experiment_dir(data_dir, experiment.id) / REPORT)
    if report is None:
        message = f"Experiment {experiment.id} is not finished; wait until it is."
        raise Problem("not-finished", 409, message)
    return report


def served_banks(
    data_dir: Path, experiment: Experiment, report: dict[str, Any]
) -> tuple[bool, list[Path], list[Path]]:
    """Return whether the ensemble on all faces is served, the folders that calibrate, and those served."""
    refitted = _of_all_faces(data_dir, experiment)
    judges = [
        refit_dir(data_dir, experiment.id, fold) if refitted else fold_dir(data_dir, experiment.id, fold)
        for fold in map(int, report["faces"])
    ]
    return refitted, judges, [refit_dir(data_dir, experiment.id, None)] if refitted else judges


def head_versions(experiment: Experiment, task: Task) -> tuple[str, str]:
    """Return both versions of a head: of the folds' ensembles, and of the ensemble on all faces."""
    return _version(experiment, task, False), _version(experiment, task, True)


def awaits_promotion(data_dir: Path, experiment: Experiment) -> bool:
    """Return whether the refits are done and the better heads are requested but not served yet."""
    if not experiment.promote or not is_finished(data_dir, experiment):
        return False
    refitted = _of_all_faces(data_dir, experiment)
    better = {task.value: _version(experiment, task, refitted) for task, _ in experiment.options.tasks}
    return bool(read_optional(experiment_dir(data_dir, experiment.id) / PROMOTED) != better)


def _of_all_faces(data_dir: Path, experiment: Experiment) -> bool:
    done = read_optional(refit_dir(data_dir, experiment.id, None) / METRICS)
    return experiment.refit and done is not None and done["chosen"] == "all"


def _version(experiment: Experiment, task: Task, refitted: bool) -> str:
    return f"{experiment.id}-all-{task.value}" if refitted else f"{experiment.id}-{task.value}"


def _card(
    data_dir: Path,
    experiment: Experiment,
    report: dict[str, Any],
    task: Task,
    classes: Classes,
    refitted: bool,
    faces: HeadFaces,
) -> dict[str, Any]:
    served = report.get("served")
    judged = report["served"] if refitted else report
    found = {key: value for key, value in judged["out_of_fold"][task.value].items() if "reliab" not in key}
    card = {
        "experiment": experiment.id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": {"version": __version__, "commit": _commit()},
        "data": {
            "sets": experiment.datasets,
            "sha256": hashes_at_creation(data_dir, experiment),
            "second_embedding": second_embeddings(data_dir, *_data(experiment)),
            "faces": faces.trained,
            "folds": faces.folds,
            "tested_sha256": faces.tested_sha256,
        },
        "protocol": (
            f"{len(report['faces'])} folds that share no subject, {experiment.options.seeds} seeds per fold; "
            f"outputs: {classes.value}; metrics are out of fold, calibrated on the other folds"
        ),
        "options": experiment.options.model_dump(mode="json"),
        "metrics": found,
        "single_networks": report["members"][task.value]["test"],
        "licence": "That of the data: a head trained on research-only data sets is for research only.",
        "limits": LIMITS,
        "domain": DOMAIN,
    }
    if served is not None:
        ensemble_on = "all" if refitted else "folds"
        card["served"] = {"chosen": ensemble_on, "nll": served["nll"], "epochs": served["epochs"]}
    return card


def _data(experiment: Experiment) -> tuple[list[str], Space, str]:
    return experiment.datasets, experiment.space, experiment.image_set


def _commit() -> str | None:
    """Return the commit of the checkout, None in a container, which has no repository."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(  # noqa: S603
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def members_that_fit(tensors: dict[str, Array], most: int = MAX_BYTES) -> int:
    """Return how many members a head's file of `most` bytes can hold, at least one.

    tensors : of an ensemble of such members, for one task.
    """
    values = sum(tensor[0].size for tensor in tensors.values())
    return max(1, most // (2 * int(values)))


def ensemble_size(bank: dict[str, Array], options: TrainingOptions, folds: int) -> int:
    """Return as many members as all folds have together, or as many as any task's head can hold.

    bank : tensors of one fold.
    """
    limit = max(members_that_fit(task_tensors(bank, options, task)) for task, _ in options.tasks)
    return min(folds * options.seeds, limit)


def ensemble(banks: list[dict[str, Array]]) -> dict[str, Array]:
    """Concatenate the members of all banks, or the first of each if all would exceed `MAX_BYTES`.

    At least one of each bank is kept, as long as the predictor can load the file.
    """
    members = len(banks[0]["input.mean"])
    kept = max(1, min(members, members_that_fit(banks[0]) // len(banks)))
    loadable = members_that_fit(banks[0], MAX_WEIGHT_BYTES - _OTHER_BYTES)
    return {name: np.concatenate([bank[name][:kept] for bank in banks[:loadable]]) for name in banks[0]}
