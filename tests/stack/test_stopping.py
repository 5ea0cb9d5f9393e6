"""`make up` ends on a signal: while it starts, and while its workers train."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from agegender.spaces import Space

from tests.support.serving import until
from tests.support.system import EXPERIMENT, made_data
from tools import machine
from tools.stack import free_ports, running_stack

LONG: dict[str, Any] = {
    **EXPERIMENT, "folds": [0, 1], "optimizer": {"epochs": 400, "patience": 400, "batch_size": 32}
}  # fmt: skip
SECONDS = 40.0  # one worker's 25 and what the others need: not 25 for each
ELSEWHERE = "import sys, pathlib, tools.up as up; up.ROOT = pathlib.Path(sys.argv[1]); up.main()"


def family_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_workers_that_train_end_together_and_nothing_is_left(tmp_path: Path) -> None:
    with running_stack(tmp_path, 2) as stack:
        space = Space.model_validate(httpx.get(f"{stack.url('embedder-proxy')}/info").json()["space"])
        made_data(stack.data_dir, space)
        trainer = stack.url("trainer")
        experiment = httpx.post(f"{trainer}/experiments", json=LONG, timeout=30).raise_for_status().json()

        def both_train() -> bool:
            folds = httpx.get(f"{trainer}/experiments/{experiment['id']}", timeout=30).json()["folds"]
            return all(fold["epoch"] > 0 for fold in folds)

        until(both_train, "two workers train", 120)
        assert stack.process is not None
        family = family_of(stack.process.pid)
        started = time.monotonic()
        stack.stop()
        took = time.monotonic() - started
    assert took < SECONDS
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


@contextmanager
def up(root: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`make up` with all its files below `root`; the context ends with it."""
    ports = {machine.variable(name): str(port) for name, port in free_ports().items()}
    with subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(root)],
        env={**os.environ, **ports, "DATA_DIR": str(root / "data"), **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(SECONDS)


def test_an_interrupt_during_the_start_is_heeded(tmp_path: Path) -> None:
    with up(tmp_path) as started:
        assert started.stdout is not None
        assert started.stdout.readline().startswith("starting")
        until(lambda: len(family_of(started.pid)) > 3, "its programs start", 30)
        family = family_of(started.pid)
        started.send_signal(signal.SIGINT)
        output, _ = started.communicate(timeout=SECONDS)
    assert started.returncode == 0
    assert output == "stopping\n"
    assert [one for one in family if one.is_running()] == []


def test_a_space_without_heads_is_reported_and_trained_for(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with up(tmp_path, HEADS_DIR=str(tmp_path / "none")) as started:
        assert started.stdout is not None
        output = ""
        while "ready. " not in output:
            line = started.stdout.readline()
            assert line, output
            output += line
        assert "warning: not ready after 10 s: predictor: There are no heads for the space" in output
        assert "Train and promote heads for it" in output
