"""Code of every HTTP service: application, settings, access, limits, request bodies, clients and logs."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import a program's modules in a seventh less time.

    Imports make hardly any garbage, so Python searches for none meanwhile, and later not among the modules.
    structlog and httpx import rich if it is installed, for coloured tracebacks and a command line; services
    have neither.
    """
    absent, collecting = "rich" not in sys.modules, gc.isenabled()
    gc.disable()
    if absent:
        sys.modules["rich"] = None  # type: ignore[assignment]  # its import then fails as if not installed
    try:
        yield
    finally:
        if absent:
            del sys.modules["rich"]
        gc.freeze()
        if collecting:
            gc.enable()
