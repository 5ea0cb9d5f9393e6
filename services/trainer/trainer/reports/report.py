"""The report of an experiment: its metrics, from the files of its folds, as JSON, Markdown and HTML."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.files import write_json, write_text
from agegender.heads.head import Classes, Task, over_years
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES, group_probabilities

from trainer.datasets.embedding_set import EmbeddingSet, read_meta_data
from trainer.evaluation import (
    REPORTED_COVERAGE,
    OutOfFold,
    age_metrics,
    calibration_error,
    children_taken_for_adults,
    confusion,
    crossed_calibration,
    exact_ages,
    gender_metrics,
    reliability,
    true_groups,
)
from trainer.experiments.experiment import (
    BANK,
    CHECKPOINT,
    METRICS,
    Experiment,
    experiment_dir,
    fold_dir,
    refit_dir,
)
from trainer.experiments.experiment_data import image_sets_of, read_out_of_fold
from trainer.experiments.fold import best_epoch, run_final
from trainer.reports.contents import (
    Table,
    exclusiveness,
    failed_folds,
    origins,
    report_plots,
    report_tables,
    served,
)
from trainer.runs.attempt import Attempt
from trainer.runs.run import FAILURE, REPORT, read_optional
from trainer.training.bank import TrainingDevice

SPLITS = ("train", "validation", "test")
HEADLINE = {Task.AGE: "group_accuracy", Task.GENDER: "accuracy"}

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #8884; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { display: inline-block; margin: 1rem 0; background: white; color: black; }
figcaption { padding: .3rem .8rem; }
.wide { overflow-x: auto; }
"""


def summarise(data_dir: Path, experiment: Experiment) -> dict[str, Any]:
    """Return the content of report.json. Raises RuntimeError if no fold was finished."""
    folds = {
        fold: read_optional(fold_dir(data_dir, experiment.id, fold) / METRICS) for fold in experiment.folds
    }
    done = {fold: metrics for fold, metrics in folds.items() if metrics is not None}
    if not done:
        raise RuntimeError("no fold was finished")
    directories = [fold_dir(data_dir, experiment.id, fold) for fold in done]
    out_of_fold = _all_out_of_fold(data_dir, experiment, directories)
    summary = {
        "experiment": experiment.model_dump(mode="json"),
        "data": {
            name: read_meta_data(data_dir, name, experiment.space, image_set)
            for name, image_set in image_sets_of(experiment.datasets, experiment.image_set).items()
        },
        "failed_folds": {
            str(fold): (read_optional(fold_dir(data_dir, experiment.id, fold) / FAILURE) or {}).get("detail")
            for fold in folds
            if fold not in done
        },
        "faces": {str(fold): metrics["faces"] for fold, metrics in done.items()},
        "validation_notes": {
            str(fold): metrics["validation_note"]
            for fold, metrics in done.items()
            if metrics.get("validation_note")
        },
        "hints": _hints(done, experiment.options.optimizer.epochs),
        "best_epochs": {str(fold): metrics["best_epochs"] for fold, metrics in done.items()},
        "tables": {task.value: _table(done, task) for task, _ in experiment.options.tasks},
        "members": {task.value: _spread(done, task) for task, _ in experiment.options.tasks},
        "out_of_fold": out_of_fold,
    }
    refits = [refit_dir(data_dir, experiment.id, fold) for fold in experiment.folds]
    if experiment.refit and all((directory / METRICS).exists() for directory in refits):
        summary["served"] = {
            **compared(out_of_fold, refitted := _all_out_of_fold(data_dir, experiment, refits)),
            "epochs": best_epoch(data_dir, experiment, experiment.folds),
            "out_of_fold": refitted,
        }
    return summary


def _hints(done: dict[int, dict[str, Any]], epochs: int) -> list[str]:
    """Return a hint if most networks were best at the last epoch, so that none was stopped early."""
    last = [epoch >= epochs for metrics in done.values() for epoch in metrics["best_epochs"]]
    if 2 * sum(last) <= len(last):
        return []
    return [
        f"Training stopped at the last epoch ({epochs}) while {sum(last)} of {len(last)} networks still "
        f"improved on the validation split. More epochs may be better: --set optimizer.epochs={2 * epochs}"
    ]


def compared(folds: dict[str, Any], refits: dict[str, Any]) -> dict[str, Any]:
    """Choose what to serve by the out-of-fold negative log-likelihood per face, summed over the tasks.

    Both have the same number of networks and the same calibration. If they are equal, the folds' networks are
    selected, because they exist already.
    """
    nll = {
        name: sum(metrics["nll"] for metrics in tasks.values())
        for name, tasks in (("folds", folds), ("all", refits))
    }
    return {"chosen": "all" if nll["all"] < nll["folds"] else "folds", "nll": nll}


def _table(done: dict[int, dict[str, Any]], task: Task) -> list[dict[str, Any]]:
    """Return the original's table: one row per held-out fold and one of means; each a mean over the seeds."""

    def mean(metrics: dict[str, Any], split: str) -> float | None:
        return _mean([member[task.value].get(HEADLINE[task]) for member in metrics["splits"][split]])

    rows: list[dict[str, Any]] = [
        {"fold": str(fold), **{split: mean(metrics, split) for split in SPLITS}}
        for fold, metrics in sorted(done.items())
    ]
    floors = [metrics["splits"]["test"][0][task.value].get("floor") for _, metrics in sorted(done.items())]
    for row, floor in zip(rows, floors, strict=True):
        row["floor"] = floor
    means = {name: _mean([row[name] for row in rows]) for name in (*SPLITS, "floor")}
    return [*rows, {"fold": "mean", **means}]


def _mean(values: list[float | None]) -> float | None:
    """Return the mean of the known values; a small validation split may have no labelled face."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(done: dict[int, dict[str, Any]], task: Task) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean and standard deviation over seeds × folds of each metric on each split."""
    spread: dict[str, dict[str, dict[str, float]]] = {}
    for split in SPLITS:
        members = [member[task.value] for metrics in done.values() for member in metrics["splits"][split]]
        spread[split] = {}
        for name in dict.fromkeys(name for member in members for name in member):
            values = [member[name] for member in members if member.get(name) is not None]
            if values and name not in ("faces", "floor"):
                spread[split][name] = {"mean": float(np.mean(values)), "std": float(np.std(values))}
    return spread


def _all_out_of_fold(data_dir: Path, experiment: Experiment, directories: list[Path]) -> dict[str, Any]:
    found = read_out_of_fold(data_dir, experiment, directories)
    return {task.value: _out_of_fold(found, task, classes) for task, classes in experiment.options.tasks}


def _out_of_fold(found: OutOfFold, task: Task, classes: Classes) -> dict[str, Any]:
    """Return metrics of the ensembles before and after calibration on the other folds."""
    calibrated, low, high = crossed_calibration(found, task, classes)
    raw = found.probabilities[task]
    if task is Task.GENDER:
        return gender_summary(found.faces, raw, calibrated)
    return age_summary(found.faces, over_years(raw, classes), over_years(calibrated, classes), low, high)


def gender_summary(
    faces: EmbeddingSet, raw: npt.NDArray[np.float32], calibrated: npt.NDArray[np.float32]
) -> dict[str, Any]:
    known = faces.has_gender
    truth = faces.gender[known].astype(np.int64)
    return {
        **gender_metrics(calibrated, faces),
        "nll_before": gender_metrics(raw, faces)["nll"],
        "ece": calibration_error(calibrated[known], truth),
        "ece_before": calibration_error(raw[known], truth),
        "reliability": reliability(calibrated[known], truth),
        "reliability_before": reliability(raw[known], truth),
        "confusion": confusion(truth, calibrated[known].argmax(axis=1), 2),
        "cells": [
            {**cell, **gender_metrics(calibrated[rows], faces.rows(rows))} for cell, rows in _cells(faces)
        ],
    }


def age_summary(
    faces: EmbeddingSet,
    raw: npt.NDArray[np.float32],
    calibrated: npt.NDArray[np.float32],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Return the metrics of age distributions [faces, 101] before and after calibration, and of intervals.

    low, high : ends of the intervals [faces], years.
    """
    known = faces.has_age
    truth = true_groups(faces)[known]
    groups, groups_before = group_probabilities(calibrated[known]), group_probabilities(raw[known])

    def covered(rows: npt.NDArray[np.bool_]) -> dict[str, float]:
        use = rows & known
        inside = (low[use] <= faces.age_high[use]) & (faces.age_low[use] <= high[use])
        return {"coverage": float(inside.mean()), "width": float((high - low)[use].mean())}

    return {
        **age_metrics(calibrated, faces),
        "exact_faces": exact_ages(faces),
        "stated_coverage": REPORTED_COVERAGE,
        **covered(known),
        "children": children_taken_for_adults(calibrated, low, faces),
        "nll_before": age_metrics(raw, faces)["nll"],
        "ece": calibration_error(groups, truth),
        "ece_before": calibration_error(groups_before, truth),
        "reliability": reliability(groups, truth),
        "reliability_before": reliability(groups_before, truth),
        "confusion": confusion(truth, groups.argmax(axis=1), len(AGE_GROUP_NAMES)),
        "cells": [
            {**cell, **age_metrics(calibrated[rows], faces.rows(rows)), **covered(rows)}
            for cell, rows in _cells(faces)
        ],
    }


def _cells(faces: EmbeddingSet) -> list[tuple[dict[str, str], npt.NDArray[np.bool_]]]:
    """Return the rows of each age group × gender that has faces."""
    groups = true_groups(faces)
    cells = []
    for group, group_name in enumerate(AGE_GROUP_NAMES):
        for gender, gender_name in enumerate(GENDER_NAMES):
            rows = faces.has_age & (groups == group) & (faces.gender == gender)
            if rows.any():
                cells.append(({"group": group_name, "gender": gender_name}, rows))
    return cells


def as_html(summary: dict[str, Any]) -> str:
    """Return an experiment's report as an HTML page."""
    title = f"Experiment {summary['experiment']['id']}"
    return as_page(title, _paragraphs(summary), report_plots(summary), report_tables(summary))


def as_page(title: str, texts: list[str], plots: list[tuple[str, str]], tables: list[Table]) -> str:
    """Return an HTML page. texts : paragraphs. plots : title and SVG of each."""
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in texts)
    shown = "".join(map(_html_table, tables))
    figures = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in plots)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{paragraphs}{figures}{shown}</body></html>"
    )


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<h2>{escape(table.title)}</h2><div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def as_markdown(summary: dict[str, Any]) -> str:
    """Return an experiment's report as Markdown."""
    lines = [f"# Experiment {summary['experiment']['id']}"]
    lines += [f"\n{text}" for text in _paragraphs(summary)]
    return "\n".join([*lines, *table_lines(report_tables(summary))]) + "\n"


def _paragraphs(summary: dict[str, Any]) -> list[str]:
    experiment = summary["experiment"]
    options, space = experiment["options"], experiment["space"]
    return [
        f"Task {options['task']} on {' and '.join(experiment['datasets'])} in space {space['id']} "
        f"({space['dimension']}-d): {len(experiment['folds'])} held-out folds, {options['seeds']} networks "
        f"per fold, preset {experiment['preset']}.",
        *([f"Name: {experiment['name']}"] if experiment.get("name") else []),
        *([f"Notes: {experiment['notes']}"] if experiment.get("notes") else []),
        *failed_folds(summary),
        *origins(summary),
        *exclusiveness(summary),
        *served(summary),
        *(f"Hint: {hint}" for hint in summary.get("hints", [])),
    ]


def table_lines(tables: list[Table]) -> list[str]:
    """Return the Markdown lines of tables."""
    lines: list[str] = []
    for table in tables:
        lines += ["", f"## {table.title}", "", *_markdown_rows(table)]
        if table.note:
            lines += ["", table.note]
    return lines


def _markdown_rows(table: Table) -> list[str]:
    return [
        "| " + " | ".join(table.columns) + " |",
        "| " + " | ".join("---" for _ in table.columns) + " |",
        *("| " + " | ".join(row) + " |" for row in table.rows),
    ]


def write_reports(data_dir: Path, experiment: Experiment, summary: dict[str, Any]) -> None:
    """Write the report in its three forms; report.json last, because it marks the report as complete."""
    directory = experiment_dir(data_dir, experiment.id)
    write_text(directory / "report.md", as_markdown(summary))
    write_text(directory / "report.html", as_html(summary))
    write_json(directory / REPORT, summary)


def write_final(
    data_dir: Path,
    experiment: Experiment,
    faces: EmbeddingSet,
    attempt: Attempt,
    device: TrainingDevice,
) -> None:
    """Train on all faces if that was selected, renew the report, and write metrics.json last.

    Raises `GivenUp` if the attempt must stop.
    """
    summary = summarise(data_dir, experiment)
    served = summary["served"]
    directory = refit_dir(data_dir, experiment.id, None)
    if served["chosen"] == "all" and not (directory / BANK).exists():
        run_final(data_dir, experiment, faces, attempt, device)
    write_reports(data_dir, experiment, summary)
    write_json(directory / METRICS, {"chosen": served["chosen"], "nll": served["nll"]})
    (directory / CHECKPOINT).unlink(missing_ok=True)
