"""The report as Markdown."""

from typing import Any

from trainer.reports.tables import Table, report_tables


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
    for fold, detail in summary["failed_folds"].items():
        lines += ["", f"**Fold {fold} failed and is not counted**: {detail}"]
    for table in report_tables(summary):
        lines += ["", f"## {table.title}", "", *_rows(table)]
        if table.note:
            lines += ["", table.note]
    return "\n".join(lines) + "\n"


def _rows(table: Table) -> list[str]:
    return [
        "| " + " | ".join(table.columns) + " |",
        "| " + " | ".join("---" for _ in table.columns) + " |",
        *("| " + " | ".join(row) + " |" for row in table.rows),
    ]
