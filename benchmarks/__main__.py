"""`make bench`: print the table, goal and figure side by side, and write it as JSON."""

import json
import os
import platform
from pathlib import Path

from benchmarks import heads

OUTPUT = Path(__file__).parent.parent / ".run" / "benchmarks.json"


def main() -> None:
    table = heads.rows()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(machine)
    for row in table:
        print(f"{row['what']:<36} goal {row['goal']:<8} figure {row['figure']:<8} against {row['against']}")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps({"machine": machine, "rows": table}, indent=2))


if __name__ == "__main__":
    main()
