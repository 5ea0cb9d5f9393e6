"""Settings that come as environment variables, in the programs that `make up` starts."""

import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.support.packs import human_pack_dir
from tests.support.serving import until
from tools.stack import Stack, StackError, free_ports, running_stack

SERVICES = ("embedder", "embedder-proxy", "predictor", "trainer")
START_SECONDS = (
    60  # half of what `make up` would wait for a service that never comes; imports take most of it
)


def test_all_services_start_with_origins_and_hosts_and_heed_them(tmp_path: Path) -> None:
    origins, hosts = "http://x.example,https://y.example", "faces.example.org,z.example.org"
    with running_stack(
        tmp_path, EMBEDDER_HUMAN_DIR=str(human_pack_dir()), CORS_ORIGINS=origins, ALLOWED_HOSTS=hosts
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
    return Stack(root / "data", root / "run", free_ports(), 1, environment)


@pytest.mark.parametrize(
    ("variable", "text", "program"),
    [
        ("PROXY_TIMEOUT", "never", "embedder-proxy"),
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
