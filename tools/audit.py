"""`make audit`: list installed Python packages with known vulnerabilities, by `pip-audit`.

It queries PyPI for each package. Options are those of pip-audit, such as `--vulnerability-service osv`. The
exit status is 0 for no vulnerabilities, 1 for some, and 2 if the data cannot be fetched.
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
    """Print the known vulnerabilities of the installed packages and return the exit status."""
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
            return _unknown((done.stderr.strip().splitlines() or ["it printed nothing"])[-1])
        packages: list[dict[str, Any]] = json.loads(report.read_text())["dependencies"]
    return _report(packages)


def _report(packages: Sequence[dict[str, Any]]) -> int:
    known = [package for package in packages if "skip_reason" not in package]
    skipped = [package for package in packages if "skip_reason" in package]
    if not known:
        return _unknown(skipped[0]["skip_reason"] if skipped else "no packages are installed")
    vulnerable = [package for package in known if package["vulns"]]
    for package in vulnerable:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    print(f"{len(known)} packages, {len(vulnerable)} with known vulnerabilities")
    if skipped:
        print("no data for: " + ", ".join(package["name"] for package in skipped))
    return 1 if vulnerable else 0


def _unknown(reason: str) -> int:
    print(
        "error: cannot check for vulnerabilities, because their data cannot be fetched.\n"
        f"pip-audit: {reason}\n"
        "Retry with access to the JSON pages of PyPI, or use another source: "
        "make audit AUDIT='--vulnerability-service osv'",
        file=sys.stderr,
    )
    return _UNKNOWN


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1:]))
