"""`python -m tools.wheels`: check that all packages of the images have wheels for arm64.

It uses `pip install --dry-run`, so nothing is installed.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGES = (
    "agegender",
    "agegender-embedder",
    "agegender-embedder-proxy",
    "agegender-predictor",
    "agegender-trainer",
)
WITHOUT_DEPENDENCIES = ("insightface",)
ARM64 = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")


def compiled() -> dict[str, str]:
    """Return name → version of the packages with machine code that the images install, as in `.venv`."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(name) for name in (*IMAGES, *WITHOUT_DEPENDENCIES)]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        key = f"{canonicalize_name(requirement.name)}[{','.join(sorted(requirement.extras))}]"
        if key in seen:
            continue
        seen.add(key)
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:  # for another system, such as a GPU's libraries
            continue
        found[canonicalize_name(requirement.name)] = package
        if requirement.name in WITHOUT_DEPENDENCIES:
            continue
        for line in package.requires or []:
            needed = Requirement(line)
            extras = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
            if needed.marker is None or any(needed.marker.evaluate(extra) for extra in extras):
                waiting.append(needed)
    return {
        name: package.version.split("+")[0]
        for name, package in sorted(found.items())
        if _is_compiled(package)
    }


def _is_compiled(package: Distribution) -> bool:
    tags = [line for line in (package.read_text("WHEEL") or "").splitlines() if line.startswith("Tag:")]
    return not all(tag.endswith("-any") for tag in tags)


def has_arm64_wheel(name: str, version: str) -> bool:
    """Return whether the package index has a wheel for arm64."""
    platforms = [f"--platform={platform}" for platform in ARM64]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
        ]
        where = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", f"--target={folder}"]
        done = subprocess.run(  # noqa: S603
            [*command, *where, *platforms, f"{name}=={version}"],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    return done.returncode == 0


def main() -> None:
    missing = []
    for name, version in compiled().items():
        found = has_arm64_wheel(name, version)
        print(f"  {'ok  ' if found else 'MISS'}  {name} {version}", flush=True)
        if not found:
            missing.append(name)
    if missing:
        sys.exit(f"no wheel for arm64: {', '.join(missing)}")


if __name__ == "__main__":
    main()
