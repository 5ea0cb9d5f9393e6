"""The systemd unit, checked by systemd's own tools."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.stack import ROOT

UNIT = ROOT / "deploy" / "systemd" / "age-gender.service"

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="no systemd-analyze: apt-get install --no-install-recommends systemd",
)


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit for this clone and this user, so that all it names exists."""
    text = UNIT.read_text().replace("/opt/age-gender/.venv/bin/python", sys.executable)
    text = text.replace("/opt/age-gender", str(ROOT)).replace("=age-gender\n", "=root\n")
    path = tmp_path / "age-gender.service"
    path.write_text(text)
    return path


def test_systemd_finds_no_fault_in_the_unit(unit: Path) -> None:
    done = analyze("verify", str(unit))
    complaints = [line for line in done.stderr.splitlines() if "age-gender.service" in line]
    assert done.returncode == 0 and complaints == [], done.stderr


def test_a_mistyped_option_would_be_found(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHouse=yes"))
    assert "ProtectHouse" in analyze("verify", str(unit)).stderr


def test_exposure_is_as_documented(unit: Path) -> None:
    stated = re.search(r"exposure level of ([0-9.]+)", (ROOT / "docs" / "deployment.md").read_text())
    assert stated is not None
    done = analyze("security", "--offline=yes", str(UNIT))
    measured = re.search(r"exposure level for age-gender.service: ([0-9.]+)", done.stdout)
    assert measured is not None, done.stdout + done.stderr
    assert float(measured[1]) <= float(stated[1])


def test_the_unit_starts_what_make_up_starts(unit: Path) -> None:
    command = re.search(r"^ExecStart=(.+)$", UNIT.read_text(), re.MULTILINE)
    assert command is not None
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^up:.*\n\t@\$\(PY\) (.+)$", makefile, re.MULTILINE)
    assert recipe is not None
    assert command[1].split(maxsplit=1)[1] == recipe[1]
