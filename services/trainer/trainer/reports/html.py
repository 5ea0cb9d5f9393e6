"""The report as one HTML page that needs nothing else."""

from html import escape
from typing import Any

from trainer.reports.plots import report_plots
from trainer.reports.tables import Table, report_tables

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
    title = f"Experiment {experiment['id']}"
    body = "".join(_table(table) for table in report_tables(summary))
    plots = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>"
        for name, svg in report_plots(summary)
    )
    failed = "".join(
        f"<p><strong>Fold {escape(fold)} failed and is not counted:</strong> {escape(str(detail))}</p>"
        for fold, detail in summary["failed_folds"].items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1><p>{escape(experiment['options']['task'])} on "
        f"{escape(' and '.join(experiment['datasets']))}, space {escape(experiment['space']['id'])}, "
        f"{experiment['options']['seeds']} seeds a fold.</p>{failed}{plots}{body}</body></html>"
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
