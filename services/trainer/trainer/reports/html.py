"""The report as one HTML page that needs nothing else."""

from html import escape
from typing import Any

from trainer.reports.plots import report_plots
from trainer.reports.tables import Table, exclusiveness, failed_folds, origins, report_tables, served

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
