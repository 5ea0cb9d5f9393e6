"""`make doctor`: what this machine has of what the project can use."""

import sys

from tools import machine


def main() -> None:
    print("needed:")
    lacking = [finding for finding in machine.needed() if not told(finding)]
    print("of use:")
    for finding in machine.of_use():
        told(finding)
    if lacking:
        sys.exit("\nMend what is marked MISS under needed, then: make demo")
    print("\nNothing needed is missing. Next: make demo")


def told(finding: machine.Finding) -> bool:
    print(f"  {'ok  ' if finding.good else 'MISS'}  {finding.what}")
    if finding.mend is not None:
        print(f"        {finding.mend}")
    return finding.good


if __name__ == "__main__":
    main()
