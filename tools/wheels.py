"""`python -m tools.wheels`: whether what the images install can be had as wheels for arm64 too.

Asks pip, which asks its package index; nothing is installed.
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
BESIDE = ("insightface",)  # installed without its dependencies
ARM64 = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")


def compiled() -> dict[str, str]:
    """Name → version of the packages with machine code that the images install, as they stand in `.venv`."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(name) for name in (*IMAGES, *BESIDE)]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        key = f"{canonicalize_name(wanted.name)}[{','.join(sorted(wanted.extras))}]"
        if key in seen:
            continue
        seen.add(key)
        try:
            package = distribution(wanted.name)
        except PackageNotFoundError:  # of another system, such as an accelerator's libraries
            continue
        found[canonicalize_name(wanted.name)] = package
        if wanted.name in BESIDE:
            continue
        for line in package.requires or []:
            needed = Requirement(line)
            extras = [{"extra": extra} for extra in wanted.extras] or [{"extra": ""}]
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
        good = has_arm64_wheel(name, version)
        print(f"  {'ok  ' if good else 'MISS'}  {name} {version}", flush=True)
        if not good:
            missing.append(name)
    if missing:
        sys.exit(f"no wheel for arm64: {', '.join(missing)}")


if __name__ == "__main__":
    main()
