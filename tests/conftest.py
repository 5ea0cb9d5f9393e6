"""Share one machine between tests: grouping, threads, the list of skipped tests, and recorded durations."""

import asyncio
import gc
import json
import os
import ssl
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import certifi
import pytest

STACK = Path(__file__).parent / "stack"
# Fixtures of the session that start a system (tests/stack/conftest.py).
SHARED_SYSTEMS = frozenset({"human_system", "buffalo_system", "shared_trainer"})
_LONG = 200  # characters or bytes of a parameter
DURATIONS = Path(__file__).parents[1] / ".run" / "durations.json"  # `make quick` reads it

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores compute at once: threads of their own would take each other's cores.
    # Set before NumPy and torch are imported, and inherited by every process that a test starts.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("EMBEDDER_THREADS", "1")
gc.disable()  # until all tests are collected: imports make hardly any garbage, and searching it takes a fifth
os.environ.pop("COLUMNS", None)  # xdist's, or a terminal's: tables would be cut to that width
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin would take another process's core


_create_context = ssl.create_default_context
_AUTHORITIES = os.environ.get("SSL_CERT_FILE") or certifi.where()  # as httpx chooses
_trusting = cache(lambda: _create_context(cafile=_AUTHORITIES))


def _shared_context(*arguments: Any, **options: Any) -> ssl.SSLContext:
    """Read the authorities once per process. httpx does for each client and each lone request, for 20 ms."""
    if not arguments and options == {"cafile": _AUTHORITIES}:
        return _trusting()
    return _create_context(*arguments, **options)


ssl.create_default_context = _shared_context


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a shared system in one process, and otherwise those of each file."""
    for item in items:
        if item.get_closest_marker("alone") and STACK not in item.path.parents:
            raise pytest.UsageError(f"{item.nodeid}: only tests in tests/stack may be marked `alone`.")
        shared = SHARED_SYSTEMS.intersection(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group(min(shared, default=item.nodeid.partition("::")[0])))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a long value by its start and length: each process sends its names to the one that distributes."""
    if isinstance(val, str | bytes) and len(val) > _LONG:
        return f"{val[:40]!r} and so on, {len(val):,} long"
    return None


@pytest.fixture(autouse=True, scope="module")
def no_event_loop_left_running() -> Iterator[None]:
    """Playwright's counts as running until it is closed; whatever calls asyncio.run after it would fail."""
    yield
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def pytest_collection_finish() -> None:
    """Collect garbage from now on, without looking through modules and tests each time."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Append what was skipped, and why, to the file that SKIPPED names: `make test` ends with it."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the process that distributes the tests has the results of all
    _record_durations(terminalreporter)
    if (path := os.environ.get("SKIPPED")) is None:
        return
    with Path(path).open("a") as file:
        for report in terminalreporter.getreports("skipped"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            name = report.nodeid.rpartition("@")[0] or report.nodeid  # without xdist's group
            file.write(f"{name}: {reason.removeprefix('Skipped: ')}\n")


def _record_durations(terminalreporter: pytest.TerminalReporter) -> None:
    """Record the seconds of each test file, unless the command selected single tests of a file."""
    config = terminalreporter.config
    if config.option.keyword or any("::" in argument for argument in config.args):
        return
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    known = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    DURATIONS.parent.mkdir(exist_ok=True)
    DURATIONS.write_text(json.dumps(known | {name: round(value, 2) for name, value in seconds.items()}))
