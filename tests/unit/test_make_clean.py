"""`make clean` deletes nothing under a system that runs."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def clean(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "-f", str(ROOT / "Makefile"), "clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_clean_is_refused_while_make_up_runs(tmp_path: Path) -> None:
    pid_file = tmp_path / ".run" / "up" / "supervisord.pid"
    pid_file.parent.mkdir(parents=True)
    (tmp_path / "data").mkdir()
    pid_file.write_text(f"{os.getpid()}\n")
    refused = clean(tmp_path)
    assert refused.returncode != 0 and "make down first" in refused.stdout
    assert pid_file.exists()
    ended = subprocess.Popen(["true"])
    ended.wait()
    pid_file.write_text(f"{ended.pid}\n")
    assert clean(tmp_path).returncode == 0
    assert not (tmp_path / ".run").exists() and (tmp_path / "data").is_dir()
    assert clean(tmp_path).returncode == 0
