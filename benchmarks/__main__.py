"""`make bench`: run all benchmarks, print them as a table, and write them as JSON, Markdown and plots.

`python -m benchmarks heads embedding` runs only these parts and writes nothing.
"""

import argparse
import time
from collections.abc import Callable

from benchmarks import (
    baseline,
    embedding,
    extraction,
    footprint,
    gpu,
    graphs,
    growth,
    heads,
    other_systems,
    packages,
    report,
    serving,
    training,
)
from benchmarks.curves import Curve
from benchmarks.table import Row
from benchmarks.video import rows as video

PARTS: dict[str, Callable[[], list[Row]]] = {
    "heads": heads.rows,
    "training": training.rows,
    "embedding": embedding.rows,
    "graphs": graphs.rows,
    "serving": serving.rows,
    "baseline": baseline.rows,
    "systems": other_systems.rows,
    "extraction": extraction.rows,
    "packages": packages.rows,
    "footprint": footprint.rows,
    "video": video.rows,
    "gpu": gpu.rows,
}
CURVES = growth.CURVES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, *CURVES, []], metavar="PART")
    selected = parser.parse_args().parts or [*PARTS, *CURVES]
    started = time.monotonic()
    described = report.machine()
    print(f"{described}\n\n{report.HEADER}", flush=True)
    rows: list[Row] = []
    for name, part in PARTS.items():
        if name in selected:
            for row in part():
                print(report.line(row), flush=True)
                rows.append(row)
            _note(name, started)
    curves: list[Curve] = []
    for name, measured in CURVES.items():
        if name in selected:
            curves.append(measured())
            print(f"\n{curves[-1].title}: {curves[-1].points}", flush=True)
            _note(name, started)
    if len(selected) == len(PARTS) + len(CURVES):
        report.write(described, time.monotonic() - started, rows, curves)
        print(f"\nwritten: {report.README}, {report.RESULTS}")


def _note(name: str, started: float) -> None:
    print(f"<!-- {name}: done after {time.monotonic() - started:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
