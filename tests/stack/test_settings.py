"""Settings that come as environment variables, in the programs that `make up` starts."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.packs import human_pack_dir
from tests.support.serving import until
from tools import machine
from tools.stack import Stack, StackError, free_ports, running_stack

SERVICES = ("embedder", "embedder-proxy", "predictor", "trainer")
ELSEWHERE = "import sys, pathlib, tools.up as up; up.ROOT = pathlib.Path(sys.argv[1]); up.main()"
START_SECONDS = (
    60  # half of what `make up` would wait for a service that never comes; imports take most of it
)


def test_all_services_start_with_origins_and_hosts_and_heed_them(tmp_path: Path) -> None:
    origins, hosts = "http://x.example,https://y.example", "faces.example.org,z.example.org"
    with running_stack(
        tmp_path, 0, EMBEDDER_HUMAN_DIR=str(human_pack_dir()), CORS_ORIGINS=origins, ALLOWED_HOSTS=hosts
    ) as stack:
        for name in SERVICES:
            url = f"{stack.url(name)}/info"
            for origin in origins.split(","):
                shared = httpx.get(url, headers={"Origin": origin})
                assert shared.status_code == 200, name
                assert shared.headers["access-control-allow-origin"] == origin, name
            assert httpx.get(url, headers={"Origin": "http://w.example"}).status_code == 403, name
            for host in hosts.split(","):
                assert httpx.get(url, headers={"Host": host}).status_code == 200, name
            assert httpx.get(url, headers={"Host": "w.example"}).status_code == 421, name


def started(root: Path, **environment: str) -> Stack:
    """Return a system without a worker, whose imports take as long as all services together."""
    return Stack(root / "data", root / "run", free_ports(), 0, environment)


@pytest.mark.parametrize(
    ("variable", "text", "program"),
    [
        ("PROXY_TIMEOUT_SECONDS", "never", "embedder-proxy"),
        ("TRAINER_THREADS", "0", "trainer"),
        ("EMBEDDER_PACK", "no_such_pack", "embedder"),
    ],
)
def test_program_that_cannot_start_ends_the_wait_with_its_own_error(
    variable: str, text: str, program: str, tmp_path: Path
) -> None:
    stack = started(tmp_path, **{variable: text})
    began = time.monotonic()
    try:
        stack.start()
        with pytest.raises(StackError) as raised:
            stack.wait_ready()
    finally:
        stack.stop()
    assert time.monotonic() - began < START_SECONDS
    message = str(raised.value)
    assert message.startswith(program), message
    assert "error: not started." in message and text in message


def test_make_up_reads_dotenv_and_stops_with_the_error_of_the_program_that_cannot_start(
    tmp_path: Path,
) -> None:
    (tmp_path / ".env").write_text("PROXY_TIMEOUT_SECONDS=never\nWORKERS=\n")
    ports = {machine.variable(name): str(port) for name, port in free_ports().items()}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path)],
        env={**os.environ, **ports, "DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "error: embedder-proxy does not start." in done.stderr
    assert "PROXY_TIMEOUT_SECONDS='never'" in done.stderr


def test_make_up_uses_the_proxy_of_dotenv_and_starts_none(tmp_path: Path) -> None:
    ports = {machine.variable(name): str(port) for name, port in free_ports().items()}
    with EmbedderDouble().served() as double:
        (tmp_path / ".env").write_text(f"PROXY_URL={double.url}\nWORKERS=0\n")
        program = subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, str(tmp_path)],
            env={**os.environ, **ports, "DATA_DIR": str(tmp_path / "data")},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            lines = []
            assert program.stdout is not None
            for line in program.stdout:
                lines.append(line)
                if "Ctrl-C" in line:
                    break
        finally:
            program.send_signal(signal.SIGINT)
            program.wait(60)
    output = "".join(lines)
    assert "not started by make up: embedder (PROXY_URL), embedder-proxy (PROXY_URL)\n" in output
    assert f"Faces and embeddings:   {double.url}/docs" in output
    assert SPACE.id in output, "the predictor has no head for the space of that proxy"
    started = (tmp_path / ".run" / "up" / "supervisord.conf").read_text()
    assert "program:predictor" in started and "program:embedder" not in started


def test_program_that_crashes_again_and_again_ends_the_wait_with_its_last_lines(tmp_path: Path) -> None:
    stack = started(tmp_path)
    try:
        stack.start()
        with (
            socket.create_server(("127.0.0.1", stack.ports["predictor"])),  # before the predictor listens
            pytest.raises(StackError, match="predictor does not start") as raised,
        ):
            stack.wait_ready()
    finally:
        stack.stop()
    assert "address already in use" in str(raised.value)


def test_program_that_ends_once_is_started_again(tmp_path: Path) -> None:
    stack = started(tmp_path, EMBEDDER_HUMAN_DIR=str(human_pack_dir()))
    try:
        stack.start()
        until(lambda: "RUNNING" in stack.control("status", "predictor"), "the predictor runs", 30, 0.25)
        stack.kill("predictor")
        stack.wait_ready()
    finally:
        stack.stop()
