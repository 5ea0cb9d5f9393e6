"""Python packages that this project's environment cannot have, and programs that use them."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.stack import ROOT

_INSTALL_SECONDS = 240
_RUN_SECONDS = 60


def python_with(name: str, *pins: str) -> Path:
    """Return the interpreter of an environment with the packages, each as `name==version`.

    Skips the test if pip cannot install them.
    """
    folder = ROOT / ".cache" / "environments" / name
    interpreter, done = folder / "bin" / "python", folder / "complete"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes, one installs
        if done.exists() and done.read_text() == "\n".join(pins):
            return interpreter
        _install([sys.executable, "-m", "venv", str(folder)], pins[0])
        _install([str(interpreter), "-m", "pip", "install", "-q", *pins], pins[0])
        done.write_text("\n".join(pins))
    return interpreter


def run_python(interpreter: Path, program: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run a program with the packages of `python_with`; return what it prints."""
    done = subprocess.run(
        [str(interpreter), "-I", "-c", program, *arguments],
        cwd=cwd,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _install(command: list[str], package: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package} was not installed within {_INSTALL_SECONDS} s")
    if done.returncode:
        pytest.skip(f"pip could not install {package}: {done.stderr.strip()[-200:]}")
