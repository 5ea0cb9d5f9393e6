"""Print the Python that set-up uses; or, to standard error, what it lacks and how to mend it, and fail."""

import sys

from tools import machine


def main() -> None:
    lacking = [
        finding
        for finding in (machine.python(), machine.disk(), machine.package_index())
        if finding.mend is not None
    ]
    if lacking:
        sys.exit("\n".join(f"error: {finding.what}.\n       {finding.mend}" for finding in lacking))
    print(machine.find_python())


if __name__ == "__main__":
    main()
