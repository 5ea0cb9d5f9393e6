"""Render reports as Markdown and as one self-contained HTML page, and write them."""

import io
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from agegender.files import write_json, write_text
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.experiments.experiment import BANK, CHECKPOINT, METRICS, Experiment, experiment_dir, refit_dir
from trainer.experiments.fold import run_final
from trainer.reports.summary import summarise
from trainer.reports.tables import Table, exclusiveness, failed_folds, origins, report_tables, served
from trainer.runs.attempt import Attempt
from trainer.runs.store import REPORT
from trainer.training.bank import TrainingDevice

matplotlib.rcParams["svg.hashsalt"] = "age-gender"  # the same data give the same bytes

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


def as_html(summary: dict[str, Any]) -> str:
    """Return an experiment's report as an HTML page."""
    title = f"Experiment {summary['experiment']['id']}"
    return as_page(title, _paragraphs(summary), report_plots(summary), report_tables(summary))


def as_page(title: str, texts: list[str], plots: list[tuple[str, str]], tables: list[Table]) -> str:
    """Return an HTML page. texts : paragraphs. plots : title and SVG of each."""
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in texts)
    figures = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in plots)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{paragraphs}{figures}{''.join(map(_table, tables))}</body></html>"
    )


def _table(table: Table) -> str:
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
