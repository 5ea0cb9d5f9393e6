"""Use several embedding containers as one: a short queue, the least loaded first, failing ones ejected."""

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from agegender.errors import Problem, busy
from agegender.faces import FaceSelection
from agegender.spaces import Space
from agegender_service.deadlines import SECONDS_PER_IMAGE, Deadline
from prometheus_client import Counter, Gauge, Histogram

from embedder_proxy.embedders import Embedded, EmbedderBusy, EmbedderFailed, Wire

log = structlog.get_logger(__name__)

SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
QUEUE_SECONDS = Histogram("proxy_queue_seconds", "Wait for a slot at the embedders", buckets=SECONDS_BUCKETS)
IN_FLIGHT = Gauge("proxy_in_flight", "Requests at the embedders now")
WAITING = Gauge("proxy_waiting", "Requests waiting for a slot at the embedders now")
REFUSED = Counter("proxy_refused_total", "Requests refused at once because the queue was full or too slow")
INFERENCE_SECONDS = Histogram(
    "proxy_inference_seconds", "Time of one successful call to an embedder", buckets=SECONDS_BUCKETS
)
RETRIES = Counter("proxy_retries_total", "Calls repeated at another embedder", ["reason"])
EJECTIONS = Counter("proxy_ejections_total", "Embedders ejected after a failure")
EMBEDDERS = Gauge("proxy_embedders", "Known embedders, ready or ejected (out)", ["state"])
for _reason in ("failed", "busy"):
    RETRIES.labels(_reason)  # exports 0 from the start, so that dashboards show the series

_PROBE_TIMEOUT = 1.0
_RESOLVE_TIMEOUT = 2.0
_RETRY_AFTER = 2
_LATE_SECONDS = 30.0  # for which an embedder that was late is asked only if there is no other
_ROUNDING = 0.25  # seconds by which a container may be early with its own 504
_NEWEST_WEIGHT = 0.2  # of the newest request in the moving average
_DEADLINE_SHARE = 0.6  # that a response may be expected to take; the rest allows for slower ones
_MAX_RETRY_AFTER = 30  # seconds
_SHORTEST_PAUSE = 0.1  # seconds between two probes


class Slots:
    """Grant slots at the embedders in the order of arrival.

    A queue that is short in requests is long in seconds if the embedders are slow. A request that would wait
    for most of its time and then miss its deadline is refused, which leaves the time to the others.
    """

    def __init__(self, slots: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(slots)
        self._max_waiting = waiting
        self._waiting = 0
        self._count = slots
        self._mean_seconds = 0.0  # for which recent requests held a slot

    @asynccontextmanager
    async def slot(self, deadline: Deadline) -> AsyncIterator[float]:
        """Hold a slot, and yield the seconds waited for it.

        Raises ``busy`` 429 at once if the queue is full or too slow for the deadline, and
        ``deadline-exceeded`` 504 while waiting.
        """
        if self._free.locked() and not self._may_wait(deadline):
            REFUSED.inc()
            retry_after = min(_MAX_RETRY_AFTER, max(1, math.ceil(self._queue_seconds)))
            detail = "The embedding containers have as many requests as they can answer in time. Retry later."
            raise busy(detail, retry_after=retry_after)
        waited = await self._acquire(deadline)
        started = time.perf_counter()
        try:
            with IN_FLIGHT.track_inprogress():
                yield waited
        finally:
            self._free.release()
            self._mean_seconds += _NEWEST_WEIGHT * (time.perf_counter() - started - self._mean_seconds)

    def _may_wait(self, deadline: Deadline) -> bool:
        expected = self._queue_seconds + self._mean_seconds
        return self._waiting < self._max_waiting and expected <= _DEADLINE_SHARE * deadline.remaining

    @property
    def _queue_seconds(self) -> float:
        """Return the expected wait of a request queued now, in seconds."""
        return self._mean_seconds * (self._waiting + 1) / self._count

    async def _acquire(self, deadline: Deadline) -> float:
        started = time.perf_counter()
        self._waiting += 1
        try:
            with WAITING.track_inprogress():
                async with asyncio.timeout(deadline.remaining):
                    await self._free.acquire()
        except TimeoutError:
            raise deadline.exceeded() from None
        finally:
            self._waiting -= 1
            waited = time.perf_counter() - started
            QUEUE_SECONDS.observe(waited)
        return waited


@dataclass(eq=False)
class Embedder:
    """One container. `reason` states why it is ejected; None if it is in use."""

    url: str
    in_flight: int = 0
    reason: str | None = "not probed yet"
    space: Space | None = None
    asked_at: float = 0.0
    late_at: float = -math.inf
    progress: int | None = None
    progressed_at: float = -math.inf

    @property
    def ready(self) -> bool:
        return self.reason is None

    @property
    def late(self) -> bool:
        """Return whether the container missed its time recently."""
        return time.monotonic() - self.late_at < _LATE_SECONDS

    def note(self, progress: int | None) -> None:
        """Record the progress that the container reports."""
        if self.progress is not None and progress is not None and progress != self.progress:
            self.progressed_at = time.monotonic()
        self.progress = progress


class _EmbedderLate(Exception):
    """Neither a response nor progress arrived within the time of one attempt."""


class Pool:
    """
    Parameters
    ----------
    urls : containers; each address of a host name becomes one.
    space_id : the only space accepted; None for that of the first container. All embedders in use share it.
    attempts : embedders asked for one request before it fails.
    attempt_timeout, probe_interval : seconds.
    """

    def __init__(
        self,
        wire: Wire,
        urls: Sequence[str],
        *,
        space_id: str | None,
        attempts: int,
        attempt_timeout: float,
        probe_interval: float,
    ) -> None:
        self._wire = wire
        self._urls = list(urls)
        self._space_id = space_id
        self._attempts = attempts
        self._attempt_timeout = attempt_timeout
        self._probe_interval = probe_interval
        self._probing: asyncio.Task[None] | None = None
        self.embedders: list[Embedder] = []
        self.space: Space | None = None

    async def watch(self) -> None:
        """Probe every embedder at intervals, until cancelled.

        While none is ready, an interval is a tenth of the time for which none was: a container that starts is
        used soon, and one that is down is not asked more often than usual.
        """
        last_ready = time.monotonic()
        while True:
            try:
                await self.probe_all()
            except Exception:  # without probes every ejected embedder would stay ejected
                log.exception("embedders not probed")
            if any(embedder.ready for embedder in self.embedders):
                last_ready = time.monotonic()
                await asyncio.sleep(self._probe_interval)
            else:
                waited = time.monotonic() - last_ready
                await asyncio.sleep(min(self._probe_interval, max(_SHORTEST_PAUSE, waited / 10)))

    async def probe_all(self) -> None:
        """Resolve and probe all embedders; concurrent callers share one run."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._resolve_and_probe())
        await asyncio.shield(self._probing)

    def why_none_ready(self) -> str | None:
        """Return why no embedder can be used; None if one can."""
        if any(embedder.ready for embedder in self.embedders):
            return None
        reasons = "; ".join(f"{embedder.url}: {embedder.reason}" for embedder in self.embedders)
        return f"No embedding container is ready. {reasons or f'{self._urls} does not resolve.'}"

    async def embed(self, images: Sequence[bytes], selection: FaceSelection, deadline: Deadline) -> Embedded:
        """Ask an embedder, and another one if that fails; the call changes nothing, so it may be repeated.

        Raises `Problem`: ``embedder-unavailable`` 503, ``deadline-exceeded`` 504, ``busy`` 429, and that of a
        request which is wrong as a whole.
        """
        tried: set[Embedder] = set()
        last_busy: Problem | None = None
        for _ in range(self._attempts):
            embedder = await self._choose(tried, deadline)
            if embedder is None or (embedder in tried and (last_busy is not None or embedder.late)):
                break  # no other is left, and asking the same one again would only add to its work
            if tried:
                RETRIES.labels("failed" if last_busy is None else "busy").inc()
            tried.add(embedder)
            try:
                return await self._ask(embedder, images, selection, deadline)
            except EmbedderBusy as error:
                last_busy = error.problem
            except EmbedderFailed as error:
                self._eject(embedder, str(error))
            except _EmbedderLate:
                embedder.late_at = time.monotonic()
                await self._probe(embedder)
        try:
            raise last_busy or self._unavailable()
        finally:
            last_busy = None  # part of its own traceback, whose frames hold the images

    async def _choose(self, tried: set[Embedder], deadline: Deadline) -> Embedder | None:
        """Return the least loaded ready embedder, preferring those not tried yet."""
        if not any(embedder.ready and embedder not in tried for embedder in self.embedders):
            try:
                async with asyncio.timeout(deadline.remaining):
                    await self.probe_all()
            except TimeoutError:
                raise deadline.exceeded() from None
        ready = [embedder for embedder in self.embedders if embedder.ready]
        untried = [embedder for embedder in ready if embedder not in tried]
        return min(
            untried or ready,
            key=lambda embedder: (embedder.late, embedder.in_flight, embedder.asked_at),
            default=None,
        )

    async def _ask(
        self, embedder: Embedder, images: Sequence[bytes], selection: FaceSelection, deadline: Deadline
    ) -> Embedded:
        embedder.in_flight += 1
        embedder.asked_at = started = time.monotonic()
        call = asyncio.ensure_future(self._wire.embed(embedder.url, images, selection, deadline))
        try:
            await self._while_it_works(embedder, call, len(images), deadline)
            embedded = call.result()
        except TimeoutError:
            if deadline.remaining < _ROUNDING:  # the caller's time is over, not only this attempt's
                raise deadline.exceeded() from None
            raise _EmbedderLate from None
        finally:
            embedder.in_flight -= 1
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            del call  # its failure holds this frame, which holds the images
        self._agree(embedded.space)
        INFERENCE_SECONDS.observe(time.monotonic() - started)
        return embedded

    async def _while_it_works(
        self, embedder: Embedder, call: asyncio.Future[Embedded], images: int, deadline: Deadline
    ) -> None:
        """Wait for the response as long as the container makes progress, or for the time of one attempt.

        Raises `TimeoutError` when the deadline passes, or the attempt's time without progress.
        """
        attempt = self._attempt_timeout + SECONDS_PER_IMAGE * (images - 1)
        started = time.monotonic()

        def remaining() -> float:
            return max(started, embedder.progressed_at) + attempt - time.monotonic()

        while not call.done():
            if remaining() <= 0:
                await self._probe(embedder)  # the last regular probe may be older than the last step
            if remaining() <= 0 or deadline.remaining == 0:
                raise TimeoutError
            await asyncio.wait({call}, timeout=min(remaining(), deadline.remaining))

    def _agree(self, space: Space) -> None:
        """Raise `EmbedderFailed` for a space other than that of the embedders in use."""
        if self._space_id is not None and space.id != self._space_id:
            raise EmbedderFailed(f"has space {space}, not {self._space_id}")
        if space != self.space and any(embedder.ready for embedder in self.embedders):
            raise EmbedderFailed(f"has space {space}, not {self.space}")
        self.space = space

    async def _resolve_and_probe(self) -> None:
        urls = await addresses(self._urls)
        known = {embedder.url for embedder in self.embedders}
        kept = [one for one in self.embedders if one.url in urls or one.ready or one.in_flight]
        self.embedders = kept + [Embedder(url) for url in urls if url not in known]
        await asyncio.gather(*(self._probe(embedder) for embedder in self.embedders))
        self._count()

    async def _probe(self, embedder: Embedder) -> None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                probed = await self._wire.probe(embedder.url)
            embedder.note(probed.progress)
            self._admit(embedder, probed.space)
        except TimeoutError:
            # A busy container may be slow to respond; ejecting it would move its load to the others.
            if embedder.late or not embedder.ready:
                self._eject(embedder, f"no response to a health probe within {_PROBE_TIMEOUT:g} s")
        except EmbedderFailed as error:
            self._eject(embedder, str(error))

    def _admit(self, embedder: Embedder, space: Space) -> None:
        self._agree(space)
        embedder.space = space
        if not embedder.ready:
            log.info("embedder admitted", embedder=embedder.url, space=str(space))
        embedder.reason = None

    def _eject(self, embedder: Embedder, reason: str) -> None:
        if embedder.ready:
            EJECTIONS.inc()
            log.warning("embedder ejected", embedder=embedder.url, reason=reason)
        embedder.reason = reason
        self._count()

    def _count(self) -> None:
        ready = sum(embedder.ready for embedder in self.embedders)
        EMBEDDERS.labels("ready").set(ready)
        EMBEDDERS.labels("out").set(len(self.embedders) - ready)

    def _unavailable(self) -> Problem:
        return Problem(
            "embedder-unavailable",
            503,
            self.why_none_ready() or "The embedding containers did not answer this request.",
            retry_after=_RETRY_AFTER,
        )

    async def close(self) -> None:
        """Stop a probe that runs."""
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing


async def addresses(urls: Sequence[str]) -> list[str]:
    """Replace the host name of each `http` URL by every address that it resolves to.

    One name may stand for several containers (`docker compose up --scale insightface=3`). An `https` URL
    stays, since its certificate names the host. A URL that does not resolve is omitted.
    """
    resolved = [address for url in urls for address in await _addresses(url)]
    return list(dict.fromkeys(resolved))


async def _addresses(url: str) -> list[str]:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return [url]
    port = parts.port or 80
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            answers = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        log.debug("embedder does not resolve", host=parts.hostname, reason=str(error))
        return []
    # A host with both an IPv4 and an IPv6 address is one container, not two.
    families = {family for family, *_ in answers}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    hosts = sorted({str(address[0]) for found, *_, address in answers if found == family})
    return [f"http://{f'[{host}]' if ':' in host else host}:{port}{parts.path}" for host in hosts]
