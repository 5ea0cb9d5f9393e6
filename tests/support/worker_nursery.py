"""Real workers in a moment: processes forked from one that has imported all that `trainer.worker` imports.

A worker imports torch, scikit-learn and TensorBoard for seconds before it takes its first job. One process
of the test session does that once; each worker is a fork of it that runs the same `trainer.worker.main`, with
an environment, a session and outputs of its own. It is killed, suspended and cut off like any other process.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import NoReturn

import psutil

_MESSAGE = 1 << 20


class ForkedWorker:
    """The part of `subprocess.Popen` that tests use, for a process that is no child of ours."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """Return None while it runs, else 0: the status of a process that is no child is unknown."""
        running = self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        return None if running else 0

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        self._process.wait(timeout)
        return 0


class Nursery:
    """The process that workers are forked from; it ends with the one that made it."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        atexit.register(self._close)

    def fork(self, environment: Mapping[str, str]) -> ForkedWorker:
        """Start a worker with this environment, and with the outputs that we have now."""
        message = json.dumps(dict(environment)).encode()
        socket.send_fds(self._ours, [message], [1, 2])
        answer = self._ours.recv(_MESSAGE)
        assert answer, f"the nursery of workers ended with {self._process.wait(10)}; see its output"
        return ForkedWorker(int(answer))

    def _close(self) -> None:
        self._ours.close()
        self._process.wait(10)


@cache
def nursery() -> Nursery:
    """Return the nursery of this process; the first call starts it."""
    return Nursery()


def main() -> None:
    from trainer.jobs import preload
    from trainer.worker import main as work

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets workers that end
    with socket.socket(fileno=int(sys.argv[1])) as caller:
        while True:
            message, outputs, _, _ = socket.recv_fds(caller, _MESSAGE, 2)
            if not message:
                return
            pid = os.fork()
            if pid == 0:
                caller.close()
                _become_worker(json.loads(message), outputs, work)
            for output in outputs:
                os.close(output)
            caller.send(str(pid).encode())


def _become_worker(environment: dict[str, str], outputs: list[int], work: object) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a worker waits for its job's process
        os.setsid()
        for number, output in zip((1, 2), outputs, strict=True):
            os.dup2(output, number)
            os.close(output)
        os.environ.clear()
        os.environ.update(environment)
        assert callable(work)
        work()
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
