"""`make doctor`: check this machine for what the project needs and can use."""

import os
import sys

from tools import installation, machine


def main() -> None:
    for name, value in installation.read_dotenv(installation.ROOT / ".env").items():
        os.environ.setdefault(name, value)  # as make up does
    print("required:")
    missing = [finding for finding in machine.required() if not show(finding)]
    print("this installation:")
    missing += [finding for finding in installation.checks() if not show(finding)]
    print("optional:")
    for finding in machine.optional():
        show(finding)
    if missing:
        sys.exit("\nFix what is marked MISS under required and this installation, then: make demo")
    print("\nEverything required is present. Next: make demo")


def show(finding: machine.Finding) -> bool:
    """Print a finding; return whether all is well."""
    print(f"  {'ok  ' if finding.good else 'MISS'}  {finding.what}")
    if finding.remedy is not None:
        print(f"        {finding.remedy}")
    return finding.good


if __name__ == "__main__":
    main()
