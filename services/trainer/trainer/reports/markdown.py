"""The report as Markdown."""

from typing import Any

from trainer.reports.tables import Table, exclusiveness, failed_folds, origins, report_tables, served


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
        lines += ["", f"## {table.title}", "", *_rows(table)]
        if table.note:
            lines += ["", table.note]
    return lines


def _rows(table: Table) -> list[str]:
    return [
        "| " + " | ".join(table.columns) + " |",
        "| " + " | ".join("---" for _ in table.columns) + " |",
        *("| " + " | ".join(row) + " |" for row in table.rows),
    ]
