"""Where the time went, told from service to service in the `Server-Timing` header (W3C Server Timing)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

SERVER_TIMING_HEADER = "Server-Timing"


class StageSeconds:
    """Adds up the seconds of each stage; a stage may be entered more than once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += perf_counter() - started


def server_timing(seconds: Mapping[str, float]) -> str:
    """The header's value, for seconds by stage."""
    return ", ".join(f"{stage};dur={value * 1000:.3f}" for stage, value in seconds.items())


def stage_seconds(header: str) -> dict[str, float]:
    """The durations of a header by their names, seconds. What cannot be read is left out."""
    found: dict[str, float] = {}
    for metric in header.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        for parameter in parameters:
            if name and parameter.startswith("dur="):
                try:
                    found[name] = float(parameter[4:]) / 1000
                except ValueError:
                    continue
    return found
