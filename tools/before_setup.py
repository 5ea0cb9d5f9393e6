"""Print the Python that set-up uses. If something is missing, print it with its remedy and fail."""

import sys

from tools import machine


def main() -> None:
    missing = [
        finding
        for finding in (machine.python(), machine.disk(), machine.package_index())
        if finding.remedy is not None
    ]
    if missing:
        sys.exit("\n".join(f"error: {finding.what}.\n       {finding.remedy}" for finding in missing))
    print(machine.find_python())


if __name__ == "__main__":
    main()
