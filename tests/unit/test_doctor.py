"""`make doctor`, `make setup` and `make up` report what the machine lacks and what to do."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import installation, machine
from tools.stack import ROOT, Stack, StackError, free_ports

NO_NETWORK = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_FIND_LINKS": ""}


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.fixture
def ports_of_our_own(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables by which nothing listens on the ports looked at, though `make up` may run on this machine."""
    variables = {machine.variable(name): str(port) for name, port in free_ports().items()}
    for name, port in variables.items():
        monkeypatch.setenv(name, port)
    return variables


def program(folder: Path, name: str, *lines: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (folder / name).chmod(0o755)


def test_make_up_refuses_a_port_in_use_with_the_same_sentence(listener: int, tmp_path: Path) -> None:
    ports = free_ports() | {"trainer": listener}
    with pytest.raises(StackError, match=rf"port {listener} \(trainer\).*\n.*PORTS=\d+ make up"):
        Stack(tmp_path / "data", tmp_path / "run", ports).start()
    assert not (tmp_path / "data").exists()


def test_redis_of_ones_own_needs_no_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert "redis" in machine.chosen_ports()
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere/0")
    ports = machine.chosen_ports()
    assert "redis" not in ports
    assert Stack(tmp_path / "data", tmp_path / "run", ports).redis_url == "redis://elsewhere/0"


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        ({}, set()),
        ({"PROXY_EMBEDDER_URLS": "http://gpu:10001, http://gpu2:10001"}, {"embedder"}),
        ({"PROXY_EMBEDDER_URLS": "http://gpu:10001,http://localhost:30001"}, set()),
        ({"PROXY_URL": "https://proxy.example"}, {"embedder", "embedder-proxy"}),
        ({"PROXY_URL": "http://127.0.0.1:30002/"}, set()),  # where `make up` starts one
        ({"PROXY_URL": "http://127.0.0.1:10002"}, {"embedder", "embedder-proxy"}),
        ({"PREDICTOR_URL": "http://faces.example:10003"}, {"predictor"}),
        ({"PREDICTOR_URL": ""}, set()),
    ],
)
def test_service_at_another_address_is_used_instead_of_a_local_one(
    given: dict[str, str], absent: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PORTS", "30001")
    for variable in machine.ADDRESSES.values():
        monkeypatch.setenv(variable, given.get(variable, ""))
    ports = machine.chosen_ports()
    assert set(machine.ADDRESSES) - ports.keys() == absent
    stack = Stack(tmp_path / "data", tmp_path / "run", ports, environment=machine.given_addresses())
    finding = installation.services()
    assert finding.good and all(name in finding.what for name in absent)
    if "predictor" in absent:
        assert stack.url("predictor") == given["PREDICTOR_URL"] and "PREDICTOR_URL" in finding.what
    if "embedder-proxy" in absent:
        assert stack.url("embedder-proxy") == given["PROXY_URL"] and "PROXY_URL" in finding.what


def test_former_name_of_a_port_applies_until_the_new_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROXY_PORT", raising=False)
    monkeypatch.setenv("EMBEDDER_PROXY_PORT", "20002")
    assert machine.chosen_ports()["embedder-proxy"] == 20002
    (sentence,) = machine.deprecations()
    assert "EMBEDDER_PROXY_PORT" in sentence and "Use PROXY_PORT" in sentence
    monkeypatch.setenv("PROXY_PORT", "20003")
    assert machine.chosen_ports()["embedder-proxy"] == 20003


def test_no_docker_is_reported_with_what_needs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machine.docker()
    assert found.what == "Docker is not installed"
    assert found.remedy is not None and "make up and make demo do not" in found.remedy


@pytest.mark.parametrize(
    ("output", "status", "what", "remedy"),
    [
        ("Cannot connect to the Docker daemon", 1, "its engine does not answer", "systemctl start docker"),
        ("permission denied while trying to connect", 1, "may not use it", "usermod -aG docker"),
        ("Server Version: 27", 0, "Compose is missing", "docker-compose"),
    ],
)
def test_docker_that_cannot_be_used_is_reported_with_the_reason(
    output: str, status: int, what: str, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = f'if [ "$1" = compose ]; then exit 1; fi; echo "{output}" >&2; exit {status}'
    program(tmp_path / "bin", "docker", case)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = machine.docker()
    assert what in found.what
    assert found.remedy is not None and remedy in found.remedy


def test_real_docker_without_its_engine_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker: apt-get install docker.io")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert machine.docker().what == "Docker is installed, but its engine does not answer"


def test_wrong_python_is_reported_with_its_version_and_how_to_get_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path / "bin", "python3", 'case "$2" in *version_info*) exit 1;; esac')
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = machine.python()
    assert found.what.startswith("Python 3.11 was not found (this is 3.")
    assert found.remedy is not None and "PYTHON=/path/to/python3.11 make setup" in found.remedy


def test_python_without_venv_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "bin", "python3.11", 'case "$2" in *venv*) exit 1;; esac')
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = machine.python()
    assert "cannot make virtual environments" in found.what
    assert found.remedy is not None and "python3.11-venv" in found.remedy


def test_little_memory_and_disk_are_reported_with_what_is_needed() -> None:
    assert machine.memory(2e9).what == "This machine has only 2.0 GB of memory"
    assert "About 3 GB are needed" in str(machine.memory(2e9).remedy)
    assert machine.disk(1e9).what == "Only 1.0 GB of disk are free here"
    assert "About 5 GB are needed" in str(machine.disk(1e9).remedy)
    assert machine.memory(8e9).remedy is None
    assert machine.disk(8e9).remedy is None


def test_memory_is_that_of_the_control_group_where_it_has_less(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "unlimited").write_text("max\n")
    (tmp_path / "limited").write_text("1000000000\n")
    monkeypatch.setattr(machine, "_CGROUP_LIMITS", (str(tmp_path / "none"), str(tmp_path / "unlimited")))
    assert machine.memory_limit() > 1e9
    monkeypatch.setattr(machine, "_CGROUP_LIMITS", (str(tmp_path / "unlimited"), str(tmp_path / "limited")))
    assert machine.memory_limit() == 1e9


def test_doctor_lists_everything_and_fails_where_something_needed_is_missing(
    listener: int, ports_of_our_own: dict[str, str]
) -> None:
    environment = {**os.environ, **ports_of_our_own, **NO_NETWORK, "TRAINER_PORT": str(listener)}
    done = subprocess.run(
        [sys.executable, "-m", "tools.doctor"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "MISS  pip does not reach its package index" in done.stdout
    assert f"MISS  In use by another program: port {listener} (trainer)" in done.stdout
    assert "data is writable" in done.stdout and "clock" in done.stdout
    assert "ok    Python 3.11" in done.stdout
    assert "Docker" in done.stdout
    assert "make demo" in done.stderr


def test_setup_without_network_reports_it_before_it_makes_anything(tmp_path: Path) -> None:
    """The script in a folder of its own, as a new clone has it."""
    files = ["constraints.txt", "requirements-dev.txt", "shared/pyproject.toml"]
    files += [f"tools/{name}" for name in ("__init__.py", "machine.py", "before_setup.py", "setup.sh")]
    files += [str(file.relative_to(ROOT)) for file in ROOT.glob("services/*/pyproject.toml")]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(
        [tmp_path / "tools" / "setup.sh"],
        env={**os.environ, **NO_NETWORK},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "1/4 checking this machine" in done.stdout
    assert "error: pip does not reach its package index" in done.stderr
    assert "Air-gapped" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_other_pythons_on_this_machine_can_run_the_doctor() -> None:
    others = [path for minor in (8, 9, 10, 12, 13) if (path := shutil.which(f"python3.{minor}"))]
    if not others:
        pytest.skip("no Python but this one: pyenv install 3.12, for one")
    for other in others:
        done = subprocess.run(
            [other, "-c", "from tools import machine; print(machine.disk(1e9).what)"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if "pyenv: " not in done.stderr:  # a shim of a version that is not selected here
            assert "Only 1.0 GB" in done.stdout, done.stderr
