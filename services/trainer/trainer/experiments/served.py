"""Compare the heads of an experiment with those that are served now.

A promotion asks for confirmation before it replaces better heads, and no served experiment is deleted.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from agegender.errors import Problem, not_found
from agegender.files import read_model
from agegender.heads.head import (
    BadHead,
    Classes,
    Head,
    HeadManifest,
    Task,
    heads_directory,
    load_head,
    over_years,
    read_current,
)
from agegender.spaces import NAME, Space
from pydantic import BaseModel, Field

from trainer.evaluation import (
    ROUGH_BELOW,
    OutOfFold,
    age_metrics,
    crossed_calibration,
    exact_ages,
    few_exact_ages,
    gender_metrics,
)
from trainer.experiments.experiment import Experiment, load_experiment, refused
from trainer.experiments.experiment_data import hashes_at_creation, read_out_of_fold
from trainer.experiments.promote import (
    HeadFaces,
    built_heads,
    head_faces,
    head_versions,
    require_report,
    served_banks,
)

SERVED, CALIBRATED = "served", "evaluation-"  # names of heads; the second begins that of a calibration
FEWER = 0.5  # of the served head's training faces; below it a promotion asks for a confirmation
WORSE = 1.02  # times the served head's error; above it a promotion asks for a confirmation
_MOST_FACES = 5000  # on which the served head is evaluated, sampled evenly from all: a request waits for it

Seen = Literal["none", "some", "all", "unknown"]
Metric = Literal["mae", "group-error", "gender-error"]
_METRICS: dict[Metric, tuple[str, str]] = {
    "mae": ("mean absolute error", "{:.2f} years"),
    "group-error": ("share of wrong age groups", "{:.1%}"),
    "gender-error": ("share of wrong genders", "{:.1%}"),
}


class HeadComparison(BaseModel):
    """A served head, and the one that would replace it."""

    task: Task
    space: str
    served: str = Field(description="version that is served")
    served_trained_on: int | None = Field(description="number of faces; null if its card does not state it")
    new_trained_on: int = Field(description="number of faces with a label for the task")
    metric: Metric | None = Field(description="of both errors; null if nothing could be compared")
    served_error: float | None
    new_error: float | None = Field(description="out of fold")
    faces: int = Field(
        description="number on which both errors were measured; those with an exact age for mae"
    )
    served_saw: Seen = Field(
        description="how many of these data sets the served head was trained on. Its error is then too low, "
        "unless it is out of fold too (`both_out_of_fold`)"
    )
    both_out_of_fold: bool = Field(
        description="both were trained on these very data sets, and tested out of fold on the same faces"
    )
    reasons: list[Literal["fewer-faces", "larger-error"]] = Field(
        description="why a promotion needs `force`; empty if it does not"
    )
    summary: str = Field(description="summary in one or two sentences")


@dataclass(frozen=True)
class _Served:
    version: str
    directory: Path


def compare_with_served(data_dir: Path, shipped: Path, experiment: Experiment) -> list[HeadComparison]:
    """Compare each head that `promote` would write with the one served for its task and space.

    A task without a served head, or with one of this experiment, is skipped. Raises ``not-finished`` 409.

    shipped : folder of the heads that came with the predictor, which are served until others are promoted.
    """
    report = require_report(data_dir, experiment)
    found = []
    faces: dict[Task, HeadFaces] = {}
    for task, classes in experiment.options.tasks:
        served = _served(data_dir / "models", shipped, task, experiment.space)
        if served is None or served.version in head_versions(experiment, task):
            continue
        try:
            head = load_head(served.directory)
        except BadHead:  # the predictor does not serve it either, and logs why
            continue
        if head.manifest.space == experiment.space:
            faces = faces or head_faces(data_dir, experiment, report)
            found.append(_compared(data_dir, experiment, report, task, classes, head, faces[task]))
    return found


def heads_named(data_dir: Path, shipped: Path, name: str, space: Space) -> dict[Task, Head]:
    """Return the heads that a request names, by task.

    name : `SERVED`, for those that are served now; the id of a finished experiment, promoted or not; or of a
        calibration. Raises ``invalid-request`` 422 for none, and ``not-finished`` 409.
    """
    models, found = data_dir / "models", dict[Task, Head]()
    if name == SERVED:
        served = {task: _served(models, shipped, task, space) for task in Task}
        found = {task: _loaded(one.directory) for task, one in served.items() if one is not None}
    elif name.startswith(CALIBRATED):
        paths = {task: heads_directory(models, task, space) / f"{name}-{task.value}" for task in Task}
        found = {
            task: _loaded(path) for task, path in paths.items() if NAME.fullmatch(name) and path.is_dir()
        }
    else:
        try:
            experiment = load_experiment(data_dir, name)
        except Problem as problem:
            raise refused("head", f"{problem.detail} Name an experiment, or {SERVED!r}.") from problem
        if experiment.space != space:
            message = f"Its space is {experiment.space}; these faces are in {space}."
            raise refused("head", message)
        found = {head.manifest.task: head for head in built_heads(data_dir, experiment)}
    if not found:
        raise refused("head", f"No head of {name} is in space {space.id}.")
    return found


def spaces_of_heads(data_dir: Path, shipped: Path) -> dict[str, Space]:
    """Return the spaces for which there are heads, by id."""
    spaces = {}
    for root in (shipped, data_dir / "models"):
        for path in sorted(root.glob("*/*/*/head.json")):
            with suppress(OSError, ValueError):
                manifest = read_model(path, HeadManifest)
                spaces[manifest.space.id] = manifest.space
    return spaces


def heads_of_versions(
    data_dir: Path, shipped: Path, versions: dict[Task, str], space: Space
) -> dict[Task, Head]:
    """Return heads by their versions. Raises ``not-found`` 404 for one that was deleted."""
    found = {}
    for task, version in versions.items():
        places = [heads_directory(root, task, space) / version for root in (data_dir / "models", shipped)]
        directory = next((place for place in places if place.is_dir()), None)
        if directory is None:
            raise not_found("head", f"{task.value}/{space.id}/{version}")
        found[task] = _loaded(directory)
    return found


def _loaded(directory: Path) -> Head:
    try:
        return load_head(directory)
    except BadHead as error:
        raise Problem("bad-head", 409, f"{error}. Promote another experiment, or roll back.") from error


def served_version(data_dir: Path, shipped: Path, task: Task, space: Space) -> str | None:
    """Return the version that is served; None if none is."""
    served = _served(data_dir / "models", shipped, task, space)
    return None if served is None else served.version


def require_no_loss(comparisons: list[HeadComparison]) -> None:
    """Raise ``promotion-needs-confirmation`` 409 if a new head saw far fewer faces, or is worse."""
    doubtful = [one for one in comparisons if one.reasons]
    if doubtful:
        raise Problem(
            "promotion-needs-confirmation",
            409,
            f"{' '.join(one.summary for one in doubtful)} To serve the new heads anyway, repeat the "
            "promotion with force=true (agegender promote ID --force); a rollback undoes it.",
            comparisons=[one.model_dump(mode="json") for one in comparisons],
        )


def require_not_served(data_dir: Path, experiment_id: str) -> None:
    """Raise ``experiment-served`` 409 if a head of the experiment is served now."""
    served = list(_heads_served_of(data_dir / "models", experiment_id))
    if served:
        raise Problem(
            "experiment-served",
            409,
            f"Heads of experiment {experiment_id} are served now: {', '.join(served)}. Promote another "
            "experiment, or roll back, then delete this one.",
            served=served,
        )


def serves_all(data_dir: Path, experiment: Experiment) -> bool:
    """Return whether the promoted head of each task is of this experiment."""
    models = data_dir / "models"
    current = {
        task: read_current(heads_directory(models, task, experiment.space))
        for task, _ in experiment.options.tasks
    }
    return all(
        one is not None and one.version in head_versions(experiment, task) for task, one in current.items()
    )


def served_tasks(data_dir: Path, experiment_id: str) -> list[str]:
    """Return the tasks for which a head of the experiment is served, in any space."""
    heads = _heads_served_of(data_dir / "models", experiment_id)
    return list(dict.fromkeys(name.partition("/")[0] for name in heads))


def _heads_served_of(models: Path, experiment_id: str) -> Iterator[str]:
    for task in Task:
        for path in sorted((models / task.value).glob("*/current.json")):
            try:
                current = read_current(path.parent)
            except BadHead:
                continue
            own = (f"{experiment_id}-{task.value}", f"{experiment_id}-all-{task.value}")
            if current is not None and current.version in own:
                yield f"{task.value}/{path.parent.name}/{current.version}"


def _served(models: Path, shipped: Path, task: Task, space: Space) -> _Served | None:
    """Find the served head as the predictor does: promoted ones first, whose version may be a shipped one."""
    own, theirs = heads_directory(models, task, space), heads_directory(shipped, task, space)
    for directory in (own, theirs):
        try:
            current = read_current(directory)
        except BadHead:
            continue
        if current is not None:
            promoted = own / current.version
            return _Served(current.version, promoted if promoted.is_dir() else theirs / current.version)
    return None


def _tested_alike(data: dict[str, Any], hashes: dict[str, str], own: HeadFaces) -> bool:
    """Return whether the errors of two heads are out of fold on the same faces.

    data : of the served head's card. A card of an earlier release has only the number of tested faces, which
        is that of all labelled faces if every fold was held out.
    """
    if data.get("sha256") != hashes:
        return False
    if "tested_sha256" in data:
        return bool(data["tested_sha256"] == own.tested_sha256)
    return bool(data.get("faces") == own.tested == own.labelled)


def _compared(
    data_dir: Path,
    experiment: Experiment,
    report: dict[str, Any],
    task: Task,
    classes: Classes,
    head: Head,
    own: HeadFaces,
) -> HeadComparison:
    card = head.manifest.card
    data = card.get("data")
    data = data if isinstance(data, dict) else {}  # a card has any form if no experiment wrote it
    hashes = hashes_at_creation(data_dir, experiment)
    theirs, trained_on = data.get("sha256"), data.get("faces")
    refitted, judges, _ = served_banks(data_dir, experiment, report)
    same = _tested_alike(data, hashes, own)
    if same:
        ours = (report["served"] if refitted else report)["out_of_fold"][task.value]
        pair, faces = (card.get("metrics", {}), ours), int(ours["faces"])
    else:
        pair = _judged(read_out_of_fold(data_dir, experiment, judges), task, classes, head)
        faces = int(pair[1]["faces"])
    metric = next((name for name in _METRICS if all(_error(one, name) is not None for one in pair)), None)
    if metric == "mae":
        faces = int(pair[1].get("exact_faces", faces))
    served_error, new_error = (
        (None, None) if metric is None else (_error(pair[0], metric), _error(pair[1], metric))
    )
    seen = _seen(theirs, hashes)
    reasons: list[Literal["fewer-faces", "larger-error"]] = []
    # Cards of earlier releases have the number of tested faces, with any label.
    number = own.trained if "tested_sha256" in data else own.tested
    if trained_on is not None and number < FEWER * trained_on:
        reasons.append("fewer-faces")
    comparable = same or seen in ("none", "unknown")
    if served_error is not None and new_error is not None and comparable and new_error > WORSE * served_error:
        reasons.append("larger-error")
    comparison = HeadComparison(
        task=task,
        space=experiment.space.id,
        served=head.manifest.version,
        served_trained_on=trained_on,
        new_trained_on=own.trained,
        metric=metric,
        served_error=served_error,
        new_error=new_error,
        faces=faces,
        served_saw=seen,
        both_out_of_fold=same,
        reasons=reasons,
        summary="",
    )
    return comparison.model_copy(update={"summary": _summary(comparison)})


def _judged(
    found: OutOfFold, task: Task, classes: Classes, head: Head
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics of the served head and of the new members, out of fold, on the same faces."""
    if len(found.faces) > _MOST_FACES:
        rows = np.linspace(0, len(found.faces) - 1, _MOST_FACES).astype(np.int64)
        found = OutOfFold(
            found.faces.rows(rows), {name: values[rows] for name, values in found.probabilities.items()}
        )
    faces = found.faces
    served, (ours, _, _) = head.probabilities(faces.embedding), crossed_calibration(found, task, classes)
    if task is Task.GENDER:
        return gender_metrics(served, faces), gender_metrics(ours, faces)
    exact = {"exact_faces": exact_ages(faces)}
    own = over_years(served, head.manifest.classes), over_years(ours, classes)
    return {**age_metrics(own[0], faces), **exact}, {**age_metrics(own[1], faces), **exact}


def _error(metrics: dict[str, Any], metric: Metric) -> float | None:
    if metric == "mae":
        return None if few_exact_ages(metrics) else metrics.get("mae")
    share = metrics.get("group_accuracy" if metric == "group-error" else "accuracy")
    return None if share is None else 1 - share


def _seen(theirs: dict[str, str] | None, ours: dict[str, str]) -> Seen:
    """Compare by name and by content, because a data set that was extracted again has the same people."""
    if theirs is None:
        return "unknown"
    shared = [name in theirs or sha in theirs.values() for name, sha in ours.items()]
    return "all" if all(shared) else "some" if any(shared) else "none"


def _summary(one: HeadComparison) -> str:
    before = "an unknown number of" if one.served_trained_on is None else f"{one.served_trained_on:,}"
    text = (
        f"The {one.task.value} head served in {one.space}, {one.served}, was trained on {before} faces, the "
        f"new one on {one.new_trained_on:,}."
    )
    if one.metric is None:
        return f"{text} Their errors could not be compared."
    name, form = _METRICS[one.metric]
    served, new = (form.format(error) for error in (one.served_error, one.new_error))
    kind = " with an exact age" if one.metric == "mae" else ""
    rough = " These are few faces, so the errors are rough." if one.faces < ROUGH_BELOW else ""
    text += (
        f" On {one.faces:,} faces{kind} the {name} is {served} for the served head and {new} for the new one"
    )
    if one.both_out_of_fold:
        return f"{text}, both out of fold.{rough}"
    note = {
        "none": "which was not trained on them",
        "unknown": "which may have been trained on them",
        "some": "which was trained on some of them, so its own error is too low",
        "all": "which was trained on them, so its own error is too low",
    }
    return f"{text} (out of fold), compared with the served head, {note[one.served_saw]}.{rough}"
