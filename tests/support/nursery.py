"""The trainer's real programs in a moment: processes forked from one that has imported all that they import.

A worker imports torch, scikit-learn and TensorBoard for seconds before it takes its first job, and the API
imports FastAPI for another. One process of the test session does that once; each program is a fork of it that
runs the same `main`, with an environment, a session and outputs of its own. It is killed, suspended and cut
off like any other process.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal, NoReturn

import psutil
from agegender_service import quick_imports

_MESSAGE = 1 << 20
_READ_AT_THE_START = ("PYTHONPATH", "LD_PRELOAD")  # of a process
Program = Literal["trainer", "trainer.worker"]


class Forked:
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
    """The process that programs are forked from; it ends with the one that made it."""

    def __init__(self) -> None:
        self._environment = {name: os.environ.get(name) for name in _READ_AT_THE_START}
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        atexit.register(self._close)

    def fork(self, program: Program, environment: Mapping[str, str]) -> Forked:
        """Start a program with this environment, and with the outputs that we have now."""
        for name, value in self._environment.items():
            assert environment.get(name) == value, f"{name} would have no effect on a fork"
        message = json.dumps([program, dict(environment)]).encode()
        socket.send_fds(self._ours, [message], [1, 2])
        answer = self._ours.recv(_MESSAGE)
        assert answer, f"the nursery ended with {self._process.wait(10)}; see its output"
        return Forked(int(answer))

    def _close(self) -> None:
        self._ours.close()
        self._process.wait(10)


@cache
def nursery() -> Nursery:
    """Return the nursery of this process; the first call starts it."""
    return Nursery()


def main() -> None:
    with quick_imports():
        import trainer.app  # noqa: F401  which `serve` imports
        from trainer.__main__ import main as serve
        from trainer.jobs import preload
        from trainer.worker import main as work

    programs = {"trainer": serve, "trainer.worker": work}
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets programs that end
    with socket.socket(fileno=int(sys.argv[1])) as caller:
        while True:
            message, outputs, _, _ = socket.recv_fds(caller, _MESSAGE, 2)
            if not message:
                return
            pid = os.fork()
            if pid == 0:
                caller.close()
                name, environment = json.loads(message)
                _become(programs[name], environment, outputs)
            for output in outputs:
                os.close(output)
            caller.send(str(pid).encode())


def _become(program: Callable[[], None], environment: dict[str, str], outputs: list[int]) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a worker waits for its job's process
        os.setsid()
        for number, output in zip((1, 2), outputs, strict=True):
            os.dup2(output, number)
            os.close(output)
        os.environ.clear()
        os.environ.update(environment)
        program()
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
