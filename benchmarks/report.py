"""Write results: results.json, the table in README.md between its markers, and one plot per curve."""

import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from agegender.environment import available_cpus

from benchmarks import processor
from benchmarks.curves import Curve
from benchmarks.table import Row

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results.json", FOLDER / "README.md"
_BEGIN, _END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"
HEADER = "| what | against | goal | figure | | remarks |\n| --- | --- | --- | --- | --- | --- |"


def machine() -> str:
    """Return a description of the machine with its load, which shows whether it was idle."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{processor.described()}, {available_cpus()} CPUs, {memory:.0f} GiB; "
        f"Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}; load {os.getloadavg()[0]:.1f} at the start"
    )


def line(row: Row) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in row.cells())} |"


def write(described: str, seconds: float, rows: Sequence[Row], curves: Sequence[Curve]) -> None:
    """Write results.json with all results, and README.md with the table and the plots."""
    content = {
        "machine": described,
        "date": datetime.now(UTC).date().isoformat(),
        "minutes": round(seconds / 60, 1),
        "rows": [{**asdict(row), "verdict": row.verdict, "remark": row.remark} for row in rows],
        "curves": [asdict(curve) for curve in curves],
    }
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    for curve in curves:
        curve.plot(FOLDER / "plots")
    plots = "\n\n".join(
        f"![{curve.title}](plots/{curve.name}.svg)\n\n{curve.bend}" for curve in curves if curve.points
    )
    section = (
        f"{_BEGIN}\n{described}; {content['date']}, {content['minutes']} minutes.\n\n{HEADER}\n"
        + "\n".join(line(row) for row in rows)
        + f"\n\n## How cost grows\n\n{plots}\n{_END}"
    )
    text = README.read_text()
    pattern = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"error: {README} has lost its markers {_BEGIN} … {_END}")
    README.write_text(pattern.sub(lambda _: section, text))
