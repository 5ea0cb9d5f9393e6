"""`make soak`: ten minutes of mixed traffic at 1.5 times the system's capacity."""

import argparse
import sys
from pathlib import Path

from benchmarks.soak.run import soak
from benchmarks.soak.verdict import write_into
from tools.stack import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="duration of the traffic, default 600")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="page whose table is updated")
    options = parser.parse_args()
    verdict = soak(options.seconds)
    print(verdict.markdown())
    if verdict.faults:
        sys.exit("failed: " + "; ".join(verdict.faults))
    write_into(options.document, verdict.markdown())


if __name__ == "__main__":
    main()
