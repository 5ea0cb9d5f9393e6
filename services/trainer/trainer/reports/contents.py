"""The tables, sentences and plots of reports as text, which Markdown and HTML render."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import matplotlib
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.evaluation import ADULT_FROM, CHILD_BELOW

matplotlib.rcParams["svg.hashsalt"] = "age-gender"  # the same data give the same bytes

_NAMES = {
    "exact_faces": "faces with an exact age",
    "group_accuracy": "group accuracy",
    "one_off_accuracy": "one-off group accuracy",
    "mae": "mean absolute error, years",
    "nll": "negative log-likelihood, nats",
    "accuracy": "accuracy",
    "ece": "expected calibration error",
}


@dataclass(frozen=True)
class Table:
    """A table of text with a title, and a note below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def report_tables(summary: dict[str, Any]) -> list[Table]:
    """Return all tables of an experiment's report."""
    tables: list[Table] = []
    for task, rows in summary["tables"].items():
        metric = "age, accuracy of the eight groups" if task == "age" else "gender, accuracy"
        tables.append(_original_table(metric, rows))
    for task in summary["tables"]:
        tables.append(_spread_table(task, summary["members"][task]))
        tables.append(_calibration_table(task, summary["out_of_fold"][task]))
        tables.append(_cell_table(task, summary["out_of_fold"][task]))
        tables.append(_confusion_table(task, summary["out_of_fold"][task]))
    if "served" in summary:
        tables += [_served_table(task, summary) for task in summary["tables"]]
    tables += _data_tables(summary)
    return tables


def evaluation_tables(summary: dict[str, Any]) -> list[Table]:
    """Return all tables of an evaluation's report."""
    tables: list[Table] = []
    for task, found in summary["out_of_fold"].items():
        tables.append(_own_data_table(task, found, summary["heads"][task]))
        if task in summary["calibration"]:
            tables.append(_recalibration_table(task, summary["calibration"][task]))
        tables.append(
            replace(
                _calibration_table(task, found),
                title=f"Faces that the head never saw: {task}",
                columns=["metric", "without its temperature", "as served"],
                note="",
            )
        )
        tables.append(_cell_table(task, found))
        tables.append(_confusion_table(task, found))
    return [*tables, *_data_tables(summary)]


def _own_data_table(task: str, found: dict[str, Any], head: dict[str, Any]) -> Table:
    own = head["metrics"]
    names = (
        "faces",
        "exact_faces",
        "group_accuracy",
        "one_off_accuracy",
        "accuracy",
        "mae",
        "nll",
        "ece",
        "coverage",
        "width",
    )
    rows = [
        [_NAMES.get(name, name), *(_figure(name, column.get(name)) for column in (found, own))]
        for name in names
        if found.get(name) is not None
    ]
    sets = " and ".join(map(str, head["sets"])) or "unknown data"
    return Table(
        f"Here and on its own data: {task}",
        ["metric", "these faces", "its own data"],
        rows,
        f"{head['version']} was trained on {sets}. Metrics on its own data are out of fold.",
    )


def _figure(name: str, value: Any) -> str:
    return str(value) if name in ("faces", "exact_faces") and value is not None else number(value)


def _recalibration_table(task: str, done: dict[str, Any]) -> Table:
    names = ("nll", "ece", "coverage", "width")
    rows = [
        [_NAMES.get(name, name), *(number(done[when].get(name)) for when in ("before", "after"))]
        for name in names
        if name in done["before"]
    ]
    rows.append(["temperature", number(done["temperature_before"]), number(done["temperature"])])
    return Table(
        f"Calibration on these faces: {task}",
        ["metric", "before", "after"],
        rows,
        f"{done['version']} has the weights of {done['base']}, and a temperature and intervals fitted to "
        f"{done['faces']} faces. Metrics after it are by cross-validation: each face is calibrated on the "
        "other folds.",
    )


def failed_folds(summary: dict[str, Any]) -> list[str]:
    """Return a sentence per failed fold."""
    return [
        f"Fold {fold} failed and is not included: {detail}"
        for fold, detail in summary["failed_folds"].items()
    ]


def origins(summary: dict[str, Any]) -> list[str]:
    """Return where weights and options come from, and which metrics a search's choice makes optimistic."""
    experiment = summary["experiment"]
    sentences = []
    if source := experiment.get("warm_start") or experiment.get("start_from"):
        sentences.append(f"Training started from the weights of experiment {source}.")
    if experiment.get("chosen_by"):
        sentences.append(_options_of(experiment))
    return sentences


def exclusiveness(summary: dict[str, Any]) -> list[str]:
    """Return what was checked so that no network is judged on faces that it has seen, and what was found."""
    experiment = summary["experiment"]
    checked = experiment.get("exclusiveness")
    if checked is None:
        first = (
            "Not checked: whether copies of one photograph, or one subject, are in several folds (an earlier "
            "release created this experiment)."
        )
    elif checked["found"]:
        first = "Checked: files, photographs and subjects, across all data sets."
    else:
        first = "Checked: no file, no photograph and no subject is in several folds, across all data sets" + (
            " whose images have hashes." if checked["not_checked"] else "."
        )
    notes = summary.get("validation_notes", {})
    return [
        first,
        *experiment.get("warnings", []),
        *(f"Fold {fold}: {note}" for fold, note in notes.items()),
    ]


def served(summary: dict[str, Any]) -> list[str]:
    """Return what `promote` serves, and the comparison behind that choice."""
    if "served" not in summary:
        return []
    nll = summary["served"]["nll"]
    ensemble = (
        f"networks trained on all faces for {summary['served']['epochs']} epochs, without a validation split"
        if summary["served"]["chosen"] == "all"
        else "the networks of all folds"
    )
    return [
        f"A promotion serves {ensemble}. The out-of-fold negative log-likelihood per face is "
        f"{number(nll['all'])} nats without a validation split, and {number(nll['folds'])} with one."
    ]


def _served_table(task: str, summary: dict[str, Any]) -> Table:
    columns = [summary["out_of_fold"][task], summary["served"]["out_of_fold"][task]]
    names = ("group_accuracy", "one_off_accuracy", "accuracy", "mae", "nll", "ece", "coverage", "width")
    return Table(
        f"With and without a validation split: {task}",
        ["metric", "with", "without"],
        [
            [_NAMES.get(name, name), *(number(column.get(name)) for column in columns)]
            for name in names
            if columns[0].get(name) is not None
        ],
        "Out of fold, after calibration on the other folds, with the same number of networks.",
    )


def _options_of(experiment: dict[str, Any]) -> str:
    search = experiment["chosen_by"]
    source = (
        f"The options are those of trial {search['trial']}, the best of {search['trials']}, of search "
        f"{search['search']} on {' and '.join(search['datasets'])}."
    )
    if not set(search["datasets"]) & set(experiment["datasets"]):
        shared = search.get("shared_faces")
        if shared:
            return (
                f"{source} It used {shared} of these faces in other data sets, so the metrics are optimistic."
            )
        if shared is None:
            return (
                f"{source} It used none of these data sets by name. Their images were not compared with its "
                "own, so it is unknown whether the metrics are independent of it."
            )
        return (
            f"{source} It used none of these data sets and none of their faces, so the metrics are "
            "independent of it."
        )
    equal = ("datasets", "image_set", "space", "overlap", "data_sha256")
    known = search.get("data_sha256") is not None and experiment.get("k") is None
    if not known or any(search.get(name) != experiment.get(name) for name in equal):
        return (
            f"{source} Its data and folds are not known to be the same as here, so it may have used faces of "
            "every fold, and the metrics may be slightly optimistic."
        )
    held_out = [fold for fold in experiment["folds"] if fold in search["held_out"]]
    if not held_out:
        return f"{source} It used faces of every fold, so the metrics are slightly optimistic."
    names = ", ".join(str(fold) for fold in held_out)
    return (
        f"{source} It did not use fold {names}: that row is independent of the choice, the other rows and "
        "the means are slightly optimistic."
    )


def number(value: float | None, digits: int = 4) -> str:
    """Format a metric; a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _original_table(metric: str, rows: list[dict[str, Any]]) -> Table:
    return Table(
        f"Cross-validation: {metric}",
        ["held-out fold", "train", "validation", "test", "majority-class baseline"],
        [
            [row["fold"], *(number(row[name]) for name in ("train", "validation", "test", "floor"))]
            for row in rows
        ],
        "Means over the seeds. The baseline always predicts the most frequent class of the test split.",
    )


def _spread_table(task: str, spread: dict[str, Any]) -> Table:
    splits = ("train", "validation", "test")
    return Table(
        f"Single networks: {task}",
        ["metric", *splits],
        [
            [_NAMES.get(name, name), *(_mean_and_spread(spread[split].get(name)) for split in splits)]
            for name in dict.fromkeys(name for split in splits for name in spread[split])
        ],
        "Mean ± standard deviation over seeds × folds.",
    )


def _mean_and_spread(found: dict[str, float] | None) -> str:
    """Format a metric over the networks; a dash if no face of the split has a label for it."""
    return "–" if found is None else f"{found['mean']:.4f} ± {found['std']:.4f}"


def _calibration_table(task: str, found: dict[str, Any]) -> Table:
    rows = [
        [_NAMES.get(name, name), "–", _figure(name, found.get(name))]
        for name in ("group_accuracy", "one_off_accuracy", "accuracy", "exact_faces", "mae")
        if name in found
    ]
    rows += [
        ["negative log-likelihood, nats", number(found["nll_before"]), number(found["nll"])],
        ["expected calibration error", number(found["ece_before"]), number(found["ece"])],
    ]
    if "coverage" in found:
        stated = f"{found['stated_coverage']:.0%}"
        rows.append([f"coverage of the {stated} intervals", "–", number(found["coverage"])])
        rows.append([f"mean width of the {stated} intervals, years", "–", number(found["width"], 2)])
    if children := found.get("children"):
        of = f"of {children['faces']} faces below {CHILD_BELOW}"
        rows.append([f"{of}, mean of {ADULT_FROM} or more", "–", str(children["mean_adult"])])
        rows.append([f"{of}, interval from {ADULT_FROM} or more", "–", str(children["interval_adult"])])
    return Table(
        f"Ensembles, out of fold: {task}",
        ["metric", "before calibration", "after"],
        rows,
        "Each face is predicted by the networks that held its fold out, and calibrated on the other "
        "folds (if there is one fold, on its other subjects).",
    )


def _cell_table(task: str, found: dict[str, Any]) -> Table:
    names = ["group_accuracy", "mae", "coverage", "width"] if task == "age" else ["accuracy"]
    return Table(
        f"By age group and gender: {task}",
        ["age group", "gender", "faces", *(_NAMES.get(name, name) for name in names)],
        [
            [cell["group"], cell["gender"], str(cell["faces"]), *(number(cell.get(name)) for name in names)]
            for cell in found["cells"]
        ],
    )


def _confusion_table(task: str, found: dict[str, Any]) -> Table:
    names = list(AGE_GROUP_NAMES if task == "age" else GENDER_NAMES)
    return Table(
        f"Confusion: {task}",
        ["true \\ predicted", *names],
        [[name, *(str(count) for count in row)] for name, row in zip(names, found["confusion"], strict=True)],
    )


def _data_tables(summary: dict[str, Any]) -> list[Table]:
    tables = []
    for name, meta_data in summary["data"].items():
        rows = [["faces", str(meta_data.get("faces", "–"))], *_leaves("", meta_data)]
        tables.append(Table(f"Data: {name}", ["", "count"], rows))
    return tables


def _leaves(prefix: str, value: dict[str, Any]) -> list[list[str]]:
    """Return the counts in the meta-data at any depth, named by their path."""
    rows: list[list[str]] = []
    for key, entry in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(entry, dict):
            rows += _leaves(f"{name}: ", entry)
        elif isinstance(entry, int) and not isinstance(entry, bool) and key != "faces":
            rows.append([name, str(entry)])
    return rows


def report_plots(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return title and SVG of each plot."""
    plots = []
    for task, found in summary["out_of_fold"].items():
        names = list(AGE_GROUP_NAMES if task == "age" else GENDER_NAMES)
        plots.append((f"Calibration: {task}", drawn(partial(_calibration, found=found))))
        confused = partial(_confusion, counts=found["confusion"], names=names)
        plots.append((f"Confusion: {task}", drawn(confused)))
    return plots


def drawn(draw: Callable[[Axes], None]) -> str:
    """Return one plot as SVG text."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    draw(figure.subplots())
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def _calibration(axes: Axes, found: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    for name, label in (("reliability_before", "before"), ("reliability", "after")):
        points = found[name]
        axes.plot(
            [point["confidence"] for point in points],
            [point["accuracy"] for point in points],
            marker="o",
            label=label,
        )
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend()


def _confusion(axes: Axes, counts: list[list[int]], names: list[str]) -> None:
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)
