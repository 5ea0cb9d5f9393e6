"""`make audit`: which installed Python packages have known vulnerabilities, by `pip-audit`.

It asks PyPI for each package; where that cannot be reached nothing is known, and that is said. Options are
pip-audit's own, such as `--vulnerability-service osv`. Ends with 0 for none, 1 for some, 2 for unknown.
"""

import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_UNKNOWN = 2


def audit(options: Sequence[str]) -> int:
    """Print what is known of the installed packages; gives the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        done = subprocess.run(  # noqa: S603
            [
                *(sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--skip-editable"),
                *("--path", sysconfig.get_path("purelib"), "--format", "json", "--output", str(report)),
                *options,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            return _unknown((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
        packages: list[dict[str, Any]] = json.loads(report.read_text())["dependencies"]
    return _told(packages)


def _told(packages: Sequence[dict[str, Any]]) -> int:
    known = [package for package in packages if "skip_reason" not in package]
    skipped = [package for package in packages if "skip_reason" in package]
    if not known:
        return _unknown(skipped[0]["skip_reason"] if skipped else "no packages are installed")
    vulnerable = [package for package in known if package["vulns"]]
    for package in vulnerable:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "nothing yet"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    print(f"{len(known)} packages, {len(vulnerable)} with known vulnerabilities")
    if skipped:
        print("nothing is known of: " + ", ".join(package["name"] for package in skipped))
    return 1 if vulnerable else 0


def _unknown(reason: str) -> int:
    print(
        "error: whether a package is vulnerable is unknown, for the data about it could not be had.\n"
        f"pip-audit: {reason}\n"
        "Try again where the JSON pages of PyPI can be reached, or name another source: "
        "make audit AUDIT='--vulnerability-service osv'",
        file=sys.stderr,
    )
    return _UNKNOWN


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1:]))
