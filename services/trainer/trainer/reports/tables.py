"""The report's tables, as text; Markdown and HTML only draw them."""

from dataclasses import dataclass
from typing import Any

from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES

from trainer.evaluation.metrics import ADULT_FROM, CHILD_BELOW

_NAMES = {
    "group_accuracy": "group accuracy",
    "one_off_accuracy": "one-off group accuracy",
    "mae": "mean absolute error, years",
    "nll": "negative log-likelihood, nats",
    "accuracy": "accuracy",
    "ece": "expected calibration error",
}


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def report_tables(summary: dict[str, Any]) -> list[Table]:
    tables: list[Table] = []
    for task, rows in summary["tables"].items():
        what = "age, accuracy of the eight groups" if task == "age" else "gender, accuracy"
        tables.append(_original_table(what, rows))
    for task in summary["tables"]:
        tables.append(_spread_table(task, summary["members"][task]))
        tables.append(_calibration_table(task, summary["out_of_fold"][task]))
        tables.append(_cell_table(task, summary["out_of_fold"][task]))
        tables.append(_confusion_table(task, summary["out_of_fold"][task]))
    if "served" in summary:
        tables += [_served_table(task, summary) for task in summary["tables"]]
    tables += _data_tables(summary)
    return tables


def failed_folds(summary: dict[str, Any]) -> list[str]:
    """A sentence for each fold that is missing."""
    return [
        f"Fold {fold} failed and is not counted: {detail}" for fold, detail in summary["failed_folds"].items()
    ]


def origins(summary: dict[str, Any]) -> list[str]:
    """Where networks or options come from, and which figures are not independent of a search's choice."""
    experiment = summary["experiment"]
    told = []
    if experiment.get("start_from"):
        told.append(f"The networks began as those of experiment {experiment['start_from']} ended.")
    if experiment.get("chosen_by"):
        told.append(_chosen_by(experiment))
    return told


def exclusiveness(summary: dict[str, Any]) -> list[str]:
    """Say what was checked so that no face is judged by networks that have seen it, and what was found."""
    experiment = summary["experiment"]
    checked = experiment.get("exclusiveness")
    if checked is None:
        first = (
            "Not checked: whether copies of one photograph, or one subject, are in several folds (it was "
            "created by an earlier release)."
        )
    elif checked["found"]:
        first = "Checked: files, photographs and subjects, over all data sets."
    else:
        first = "Checked: no file, no photograph and no subject is in several folds, over all data sets" + (
            " whose images have hashes." if checked["not_checked"] else "."
        )
    notes = summary.get("validation_notes", {})
    return [
        first,
        *experiment.get("warnings", []),
        *(f"Fold {fold}: {note}" for fold, note in notes.items()),
    ]


def served(summary: dict[str, Any]) -> list[str]:
    """What `promote` serves, and the comparison by which it was chosen."""
    if "served" not in summary:
        return []
    nll, chosen = summary["served"]["nll"], summary["served"]["chosen"]
    what = (
        f"a bank trained on all faces for {summary['served']['epochs']} epochs, without a validation part"
        if chosen == "all"
        else "the banks of all folds"
    )
    return [
        f"Promoted is {what}. Out of fold, training on all faces but the left-out ones has a negative "
        f"log-likelihood of {number(nll['all'])} nats a face, training with a validation part "
        f"{number(nll['folds'])}."
    ]


def _served_table(task: str, summary: dict[str, Any]) -> Table:
    columns = [summary["out_of_fold"][task], summary["served"]["out_of_fold"][task]]
    names = ("group_accuracy", "one_off_accuracy", "accuracy", "mae", "nll", "ece", "coverage", "width")
    return Table(
        f"With a validation part, or fitted on all faces: {task}",
        ["measure", "folds' banks", "all other faces"],
        [
            [_NAMES.get(name, name), *(number(column[name]) for column in columns)]
            for name in names
            if columns[0].get(name) is not None
        ],
        "Out of fold, after calibration on the other folds; as many networks on both sides.",
    )


def _chosen_by(experiment: dict[str, Any]) -> str:
    chosen = experiment["chosen_by"]
    told = (
        f"The options are those of trial {chosen['trial']}, the best of {chosen['trials']}, of search "
        f"{chosen['search']} on {' and '.join(chosen['datasets'])}."
    )
    if not set(chosen["datasets"]) & set(experiment["datasets"]):
        shared = chosen.get("shared_faces")
        if shared:
            return (
                f"{told} It saw {shared} of these faces in other data sets: the figures flatter the options."
            )
        unknown = (
            " by name (their images were not compared)" if shared is None else " and none of their faces"
        )
        return f"{told} It saw none of these data sets{unknown}: the figures are independent of that choice."
    held_out = [fold for fold in experiment["folds"] if fold in chosen["held_out"]]
    if chosen["datasets"] != experiment["datasets"] or not held_out:
        return f"{told} It saw faces of every fold: the figures flatter the options a little."
    names = ", ".join(str(fold) for fold in held_out)
    return (
        f"{told} It never looked at fold {names}: that row is independent of the choice, "
        "the others and the means flatter the options a little."
    )


def number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _original_table(what: str, rows: list[dict[str, Any]]) -> Table:
    return Table(
        f"Cross-validation: {what}",
        ["left-out fold", "train", "val", "test", "commonest class"],
        [
            [row["fold"], *(number(row[name]) for name in ("train", "validation", "test", "floor"))]
            for row in rows
        ],
        "Means over the seeds. Last column: what always saying the commonest class would reach on test.",
    )


def _spread_table(task: str, spread: dict[str, Any]) -> Table:
    return Table(
        f"Single networks: {task}",
        ["measure", "train", "val", "test"],
        [
            [
                _NAMES.get(name, name),
                *(
                    f"{spread[split][name]['mean']:.4f} ± {spread[split][name]['std']:.4f}"
                    for split in ("train", "validation", "test")
                ),
            ]
            for name in spread["test"]
        ],
        "Mean ± standard deviation over seeds × folds.",
    )


def _calibration_table(task: str, found: dict[str, Any]) -> Table:
    rows = [
        [_NAMES.get(name, name), "–", number(found.get(name))]
        for name in ("group_accuracy", "one_off_accuracy", "accuracy", "mae")
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
        rows.append([f"{of}, the mean is {ADULT_FROM} or more", "–", str(children["mean_adult"])])
        rows.append([f"{of}, all of the interval is", "–", str(children["interval_adult"])])
    return Table(
        f"Ensembles, out of fold: {task}",
        ["measure", "before calibration", "after"],
        rows,
        "Each face is predicted by the bank that left its fold out, and calibrated on the other folds, "
        "of a single fold on its other subjects.",
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
        ["true \\ said", *names],
        [[name, *(str(count) for count in row)] for name, row in zip(names, found["confusion"], strict=True)],
    )


def _data_tables(summary: dict[str, Any]) -> list[Table]:
    tables = []
    for name, meta_data in summary["data"].items():
        rows = [["faces", str(meta_data.get("faces", "–"))], *_leaves("", meta_data)]
        tables.append(Table(f"Data: {name}", ["", "count"], rows))
    return tables


def _leaves(prefix: str, value: dict[str, Any]) -> list[list[str]]:
    """Counts in the meta-data, however deep, with their path as name."""
    rows: list[list[str]] = []
    for key, entry in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(entry, dict):
            rows += _leaves(f"{name}: ", entry)
        elif isinstance(entry, int) and not isinstance(entry, bool) and key != "faces":
            rows.append([name, str(entry)])
    return rows
