"""`make bench`: print the table, goal and figure side by side, and write it as JSON."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks import embedding, heads, serving, training
from benchmarks.table import Row

OUTPUT = Path(__file__).parent.parent / ".run" / "benchmarks.json"
PARTS: tuple[Callable[[], list[Row]], ...] = (heads.rows, training.rows, embedding.rows, serving.rows)


def main() -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(f"{machine}\n\n| what | against | goal | figure | |\n| --- | --- | --- | --- | --- |", flush=True)
    table: list[Row] = []
    for part in PARTS:
        for row in part():
            verdict = "reached" if row.met else "missed"
            cells = (row.what, row.against, f"≥ {row.goal:.2f}×", f"{row.figure:.2f}×", verdict)
            print(f"| {' | '.join(cells)} |", flush=True)
            table.append(row)
    absolute = [*serving.footprint(), *serving.image_sizes()]
    print("\n| what | figure |\n| --- | --- |")
    for name, value in absolute:
        print(f"| {name} | {value} |")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "rows": [asdict(row) for row in table], "absolute": dict(absolute)}
    OUTPUT.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
