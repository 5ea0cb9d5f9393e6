"""The step of Compose that lets the containers write to data sets that somebody else put into `data/`."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tools.stack import ROOT

SERVICE, SOMEBODY = 10001, 1000

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter, as pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def script(folder: Path) -> str:
    """The step's program, for this folder instead of the container's."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    (text,) = compose["services"]["data-init"]["command"]
    for inside, here in (("$$", "$"), ("/run/age-gender", f"{folder}/run"), ("/data", f"{folder}/data")):
        text = text.replace(inside, here)
    return str(text)


def run_step(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the step as root with the one capability that the container has."""
    command = ["setpriv", "--bounding-set=-all,+chown", "--inh-caps=-all", "sh", "-ec", script(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def can(user: int, *command: str) -> bool:
    group = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return subprocess.run([*group, *command], capture_output=True, check=False).returncode == 0


def test_services_and_the_owner_can_both_write_to_a_data_set(folder: Path) -> None:
    data, mine, private, models = (
        folder / name for name in ("data", "data/My faces (1)", "data/private", "data/models")
    )
    for path, user, mode in (
        (data, SOMEBODY, 0o755),
        (mine, SOMEBODY, 0o755),
        (private, SOMEBODY, 0o700),
        (models, SERVICE, 0o700),
    ):
        path.mkdir()
        path.chmod(mode)
        os.chown(path, user, user)
    (folder / "run").mkdir()
    (data / "link").symlink_to("/")
    assert not can(SERVICE, "mkdir", str(mine / "human-2"))  # what an extraction does first
    for _ in range(2):
        done = run_step(folder)
        assert (done.returncode, done.stderr) == (0, "")
    for path in (data, mine, private):
        assert can(SERVICE, "mkdir", str(path / "human-2")), path
        assert can(SOMEBODY, "touch", str(path / "more.jpg")), path
        assert path.stat().st_uid == SOMEBODY
    assert (models.stat().st_uid, models.stat().st_mode & 0o777) == (SERVICE, 0o700)
    assert Path("/").stat().st_gid == 0
    assert len((folder / "run" / "redis-password").read_text().strip()) == 64


def test_empty_volume_is_writable_for_the_services(folder: Path) -> None:
    for name in ("data", "run"):
        (folder / name).mkdir()
    assert run_step(folder).returncode == 0
    assert can(SERVICE, "mkdir", str(folder / "data" / "experiments"))
