"""Logs, request ids, request metrics, and the time that a request spends in each stage."""

import logging
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import structlog
from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import EventDict, Processor, WrappedLogger

REQUEST_ID_HEADER = "X-Request-ID"
SERVER_TIMING_HEADER = "Server-Timing"  # W3C Server Timing
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNLOGGED = ("/health", "/v2/health", "/metrics")  # requested every few seconds

log = structlog.get_logger(__name__)

REQUESTS = Counter("http_requests_total", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram(
    "http_request_seconds",
    "Time from the first byte of a request to the last byte of its response",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


def configure_logs(log_format: Literal["console", "json"], level: str) -> None:
    """Write the records of structlog and of the standard library to standard error, in one format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        # structlog's default prints the local variables of every frame, which is pages for one error.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.getLogger("httpx").setLevel("WARNING")
    logging.getLogger("uvicorn.access").setLevel("WARNING")  # ObserveRequests logs them without addresses
    logging.getLogger("asgi_correlation_id").setLevel("ERROR")  # it warns of each id that is replaced


def request_id() -> str | None:
    """Return the id of the current request, or None outside of a request."""
    return correlation_id.get()


def _add_request_id(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if (identifier := request_id()) is not None:
        event["request_id"] = identifier
    return event


class IdentifyRequests(CorrelationIdMiddleware):
    """ASGI middleware: accept a short request id from the caller, or create one."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, REQUEST_ID_HEADER, validator=lambda given: bool(_ACCEPTED_ID.fullmatch(given)))


class ObserveRequests:
    """ASGI middleware: log, count and time each request. No client address is stored."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            REQUESTS.labels(scope["method"], route, str(status)).inc()
            SECONDS.labels(scope["method"], route).observe(seconds)
            if not scope["path"].startswith(_UNLOGGED):
                log.info(
                    "request",
                    method=scope["method"],
                    route=route,
                    status=status,
                    milliseconds=round(seconds * 1000, 1),
                )


class Stopwatch:
    """Add up the seconds of each stage. A stage may be entered more than once, and counts if it fails.

    histogram : observes the stages of this service, labelled with the stage's name.
    """

    def __init__(self, histogram: Histogram | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._histogram = histogram
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.note(name, time.perf_counter() - started)

    def note(self, stage: str, seconds: float) -> None:
        """Add a stage of this service that was measured elsewhere."""
        if self._histogram is not None:
            self._histogram.labels(stage).observe(seconds)
        self.seconds[stage] += seconds

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the stages that another service reported; they are in that service's histogram."""
        for stage, spent in seconds.items():
            self.seconds[stage] += spent

    def milliseconds(self) -> dict[str, float]:
        """Return the milliseconds by stage, and `total` since this object was created."""
        rounded = {stage: round(spent * 1000, 3) for stage, spent in self.seconds.items()}
        return {**rounded, "total": round((time.perf_counter() - self._started) * 1000, 3)}


def with_transfer(reported: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return the seconds by stage that a service reported, with `transfer` for the rest of a call's seconds.

    That is HTTP between the services, and what both do to write and to read the messages. Returns nothing if
    the service reported nothing.
    """
    if not reported:
        return {}
    rest = max(0.0, seconds - sum(reported.values()))
    return {**reported, "transfer": reported.get("transfer", 0.0) + rest}


def server_timing(seconds: Mapping[str, float]) -> str:
    """Format seconds by stage as the value of a `Server-Timing` header."""
    return ", ".join(f"{stage};dur={value * 1000:.3f}" for stage, value in seconds.items())


def stage_seconds(header: str) -> dict[str, float]:
    """Parse the seconds by stage from a `Server-Timing` header; skip what cannot be parsed."""
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
