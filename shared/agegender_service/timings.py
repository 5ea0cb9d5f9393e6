"""Where the time went, told from service to service in the `Server-Timing` header (W3C Server Timing)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import Histogram

SERVER_TIMING_HEADER = "Server-Timing"


class StageSeconds:
    """Add up the seconds of each stage; a stage may be entered more than once, and counts if it fails.

    histogram : observes the stages of this service, by their name.
    """

    def __init__(self, histogram: Histogram | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._histogram = histogram
        self._started = perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.note(name, perf_counter() - started)

    def note(self, stage: str, seconds: float) -> None:
        """Add a stage of this service."""
        if self._histogram is not None:
            self._histogram.labels(stage).observe(seconds)
        self.seconds[stage] += seconds

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the stages that another service reports; they are in its own histogram."""
        for stage, spent in seconds.items():
            self.seconds[stage] += spent

    def milliseconds(self) -> dict[str, float]:
        """Return the milliseconds by stage, and `total` since this object was made."""
        rounded = {stage: round(spent * 1000, 3) for stage, spent in self.seconds.items()}
        return {**rounded, "total": round((perf_counter() - self._started) * 1000, 3)}


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
