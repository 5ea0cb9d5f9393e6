"""`make soak`: ten minutes of mixed traffic at one and a half times what the system can do."""

import argparse
import sys
from pathlib import Path

from benchmarks.soak.run import soak
from benchmarks.soak.verdict import write_into
from tools.stack import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of traffic, 600 unless told")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="whose table is renewed")
    options = parser.parse_args()
    verdict = soak(options.seconds)
    print(verdict.markdown())
    if verdict.faults:
        sys.exit("not as promised: " + "; ".join(verdict.faults))
    write_into(options.document, verdict.markdown())


if __name__ == "__main__":
    main()
