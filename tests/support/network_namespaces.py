"""A second network on this machine, joined to the first by a cable that a test may cut."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Island:
    """name : of the namespace. host : this machine's address as the island sees it."""

    name: str
    host: str
    cable: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Before a command that shall run on the island."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Packets are lost both ways; connections stay open and say nothing."""
        _run("ip", "link", "set", self.cable, "down")

    def join(self) -> None:
        _run("ip", "link", "set", self.cable, "up")


@contextmanager
def island() -> Iterator[Island]:
    """Skips the test where namespaces cannot be had."""
    if shutil.which("ip") is None:
        pytest.skip("no iproute2: apt-get install iproute2")
    number = next(_NUMBERS)
    name, cable = f"ag{os.getpid()}-{number}", f"agv{os.getpid() % 100_000}{number}"
    third = os.getpid() % 250
    host, guest = f"10.213.{third}.{4 * number + 1}", f"10.213.{third}.{4 * number + 2}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespaces, which need root: {made.stderr.strip()}")
    try:
        _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "addr", "add", f"{host}/30", "dev", cable)
        _run("ip", "link", "set", cable, "up")
        _run("ip", "-n", name, "addr", "add", f"{guest}/30", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield Island(name, host, cable)
    finally:
        subprocess.run(["ip", "link", "del", cable], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)
