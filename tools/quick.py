"""`make quick`: run the unit and contract tests nearest to what changed, for about 45 seconds.

Changed are the files that differ from the last commit or, if none does, the files of the last commit. Tests
are ordered by the number of imports between them and a changed module. Every run of pytest records how long
each test file takes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
DURATIONS = ROOT / ".run" / "durations.json"
PACKAGES = (
    "agegender",
    "agegender_service",
    "agegender_client",
    "embedder",
    "embedder_proxy",
    "predictor",
    "trainer",
    "tools",
    "benchmarks",
    "tests",
)
FOLDERS = ("tests/unit", "tests/contract")
# Test files that read every file of the repository, so that any change can fail them.
EVERY_CHANGE = ("tests/unit/test_house.py", "tests/unit/test_reference.py")
SECONDS = 45.0
UNKNOWN = 3.0  # seconds of a test file that `make test` has not recorded


def changed_files() -> list[str]:
    """Return the paths that differ from the last commit, untracked ones included, or else those of it."""
    named = _git("diff", "--name-only", "HEAD") + _git("ls-files", "--others", "--exclude-standard")
    return named or _git("diff", "--name-only", "HEAD~1", "HEAD")


def module_of(path: str) -> str | None:
    """Return the dotted name of a Python file of this repository, and None for any other file."""
    if not path.endswith(".py"):
        return None
    parts = list(Path(path).with_suffix("").parts)
    del parts[: {"shared": 1, "services": 2}.get(parts[0], 0)]
    if not parts or parts[0] not in PACKAGES:
        return None
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def distances(changed: Sequence[str]) -> dict[str, int]:
    """Return the imports between each test file and its nearest changed module; 0 if it changed itself.

    A test file that contains the name of a changed file that is not Python has the distance 1, and so have
    those that read every file.
    """
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    modules = [module for path in changed if (module := module_of(path)) in graph.modules]
    names = {Path(path).name for path in changed if module_of(path) is None}
    found: dict[str, int] = {}
    for path in sorted(file for folder in FOLDERS for file in (ROOT / folder).glob("test_*.py")):
        name = str(path.relative_to(ROOT))
        test = module_of(name)
        assert test is not None
        steps = [_steps(graph, test, module) for module in modules]
        if name in EVERY_CHANGE:
            steps.append(1)
        if names and any(other in path.read_text() for other in names):
            steps.append(1)
        if known := [count for count in steps if count is not None]:
            found[name] = min(known)
    return found


def selection(
    near: dict[str, int], durations: dict[str, float], budget: float
) -> tuple[list[str], list[str]]:
    """Divide test files into those to run, nearest first within a budget in seconds, and those omitted.

    Files that changed themselves always run.
    """
    selected: list[str] = []
    left_out: list[str] = []
    spent = 0.0
    for name in sorted(near, key=lambda name: (near[name], durations.get(name, UNKNOWN))):
        spent += durations.get(name, UNKNOWN)
        (selected if near[name] == 0 or spent <= budget else left_out).append(name)
    return selected, left_out


def main() -> int:
    """Run the selected tests with the options of the command line; return pytest's exit status."""
    changed = changed_files()
    durations = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    processes = min(os.cpu_count() or 1, 4)
    near = distances(changed)
    selected, left_out = selection(near, durations, SECONDS * processes)
    print(f"{len(changed)} changed files, {len(near)} test files use them, {len(selected)} run now.")
    command = [sys.executable, "-m", "pytest", "--numprocesses", str(processes), "--dist", "loadgroup"]
    command += ["-m", "not alone", *sys.argv[1:], *selected]
    status = subprocess.run(command, cwd=ROOT).returncode  # noqa: S603
    if left_out:
        print(f"Omitted: {len(left_out)} files that take longer or are further away: {_listed(left_out)}")
        print("make test runs them.")
    return status


def _steps(graph: grimp.ImportGraph, test: str, module: str) -> int | None:
    if test == module:
        return 0
    chain = graph.find_shortest_chain(test, module)
    return None if chain is None else len(chain) - 1


def _git(*arguments: str) -> list[str]:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.splitlines()


def _listed(names: Iterable[str]) -> str:
    return " ".join(Path(name).name for name in names)


if __name__ == "__main__":
    sys.exit(main())
