"""`make up`: start all services, print their addresses, and stop them at Ctrl-C."""

import os
import signal
import sys
import time
from pathlib import Path

from dotenv import load_dotenv

from tools import installation, machine
from tools.stack import PHOTOGRAPH, ROOT, NotReady, Stack, StackError

TRAINING = ("embedder", "embedder-proxy", "trainer")


def main() -> None:
    load_dotenv(ROOT / ".env")  # as Compose does; the environment takes precedence
    stack = Stack(
        data_dir=Path(os.environ.get("DATA_DIR") or ROOT / "data"),
        run_dir=ROOT / ".run" / "up",
        ports=machine.chosen_ports(),
        workers=machine.whole_number("WORKERS", 1),
        environment=machine.given_addresses(),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    for sentence in machine.deprecations():
        print(f"warning: {sentence}", flush=True)
    if (memory := machine.memory()).remedy is not None:
        print(f"warning: {memory.what}. {memory.remedy}", flush=True)
    if machine.elsewhere():
        print(installation.services().what, flush=True)
    try:
        stack.start()
        print("starting; logs are in .run/up/logs", flush=True)
        stack.wait_ready(TRAINING)
        _warn_without_heads(stack)
        _print_addresses(stack)
        _watch(stack)
    except StackError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        stack.stop()


def _warn_without_heads(stack: Stack) -> None:
    """Warn if the predictor has no heads. This system may be started to train them."""
    try:
        stack.wait_ready(("predictor",), 10)
    except NotReady as error:
        print(f"warning: {error}", flush=True)


def _print_addresses(stack: Stack) -> None:
    print(
        f"\nready. Predictor and its page: {stack.url('predictor')}\n"
        f"       Trainer and its page:   {stack.url('trainer')}\n"
        f"       Faces and embeddings:   {stack.url('embedder-proxy')}/docs\n\n"
        f'try:   curl -F "image=@{PHOTOGRAPH}" {stack.url("predictor")}/age-gender\n\n'
        "Ctrl-C stops everything.",
        flush=True,
    )


def _watch(stack: Stack) -> None:
    """Wait until `make down` ends supervisor. Raises `StackError` if it ends for another reason."""
    assert stack.process is not None
    while (code := stack.process.poll()) is None:
        time.sleep(1)
    if code != 0:
        raise StackError("supervisor ended; see .run/up/supervisord.log")


if __name__ == "__main__":
    main()
