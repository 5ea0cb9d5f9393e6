"""The report as one HTML page that needs nothing else."""

from html import escape
from pathlib import Path
from typing import Any

from agegender.files import write_json, write_text

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.experiments.experiment import BANK, CHECKPOINT, METRICS, Experiment, experiment_dir, refit_dir
from trainer.experiments.fold import run_final
from trainer.reports.plots import report_plots
from trainer.reports.summary import summarise
from trainer.reports.tables import Table, exclusiveness, failed_folds, origins, report_tables, served
from trainer.runs.attempt import Attempt
from trainer.runs.store import REPORT
from trainer.training.device import TrainingDevice

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
    experiment = summary["experiment"]
    told = [
        f"{experiment['options']['task']} on {' and '.join(experiment['datasets'])}, space "
        f"{experiment['space']['id']}, {experiment['options']['seeds']} seeds a fold."
    ]
    told += failed_folds(summary) + origins(summary) + exclusiveness(summary) + served(summary)
    return as_page(f"Experiment {experiment['id']}", told, report_plots(summary), report_tables(summary))


def as_page(title: str, told: list[str], plots: list[tuple[str, str]], tables: list[Table]) -> str:
    """told : paragraphs. plots : title and SVG of each."""
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in told)
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
    experiment = summary["experiment"]
    options = experiment["options"]
    lines = [
        f"# Experiment {experiment['id']}",
        "",
        f"{options['task']} on {' and '.join(experiment['datasets'])} in space {experiment['space']['id']} "
        f"({experiment['space']['dimension']}-d), {len(experiment['folds'])} left-out folds, "
        f"{options['seeds']} seeds a fold, preset {experiment['preset']}.",
    ]
    told = [*failed_folds(summary), *origins(summary), *exclusiveness(summary), *served(summary)]
    return "\n".join([*lines, *(f"\n{text}" for text in told), *table_lines(report_tables(summary))]) + "\n"


def table_lines(tables: list[Table]) -> list[str]:
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
    """Train the bank on all faces if it is chosen, renew the report, and write metrics.json last.

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
