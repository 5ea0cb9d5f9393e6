"""Render tables as Markdown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"\n### {self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
