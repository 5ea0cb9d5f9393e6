"""`make up`: start everything, say where it is, stop it at Ctrl-C."""

import os
import signal
import sys
import threading
from pathlib import Path

import insightface

from tools import machine
from tools.stack import ROOT, Stack, StackError


def main() -> None:
    stack = Stack(
        data_dir=Path(os.environ.get("DATA_DIR", ROOT / "data")),
        run_dir=ROOT / ".run" / "up",
        ports=machine.chosen_ports(),
        workers=int(os.environ.get("WORKERS", "1")),
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if (memory := machine.memory()).mend is not None:
        print(f"warning: {memory.what}. {memory.mend}", flush=True)
    try:
        stack.start()
        print("starting; logs are in .run/up/logs", flush=True)
        stack.wait_ready()
    except StackError as error:
        stack.stop()
        sys.exit(f"error: {error}")
    photograph = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
    print(
        f"\nready. Predictor and its page: {stack.url('predictor')}\n"
        f"       Trainer and its page:   {stack.url('trainer')}\n"
        f"       Faces and embeddings:   {stack.url('embedder-proxy')}/docs\n\n"
        f'try:   curl -F "image=@{photograph}" {stack.url("predictor")}/age-gender\n\n'
        "Ctrl-C stops everything.",
        flush=True,
    )
    while not stop.is_set():
        stop.wait(1)
        if stack.process is None or stack.process.poll() is None:
            continue
        if stack.process.returncode == 0:  # by `make down`
            break
        sys.exit("error: supervisor ended; see .run/up/supervisord.log")
    print("stopping")
    stack.stop()


if __name__ == "__main__":
    main()
