"""Several embedding containers as one: the least loaded is asked, a failing one left out until ready."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from agegender.errors import Problem
from agegender.faces import FaceSelection
from agegender.spaces import Space
from agegender_service.deadlines import SECONDS_PER_IMAGE, Deadline

from embedder_proxy.discovery import addresses
from embedder_proxy.embedders import Embedded, EmbedderBusy, EmbedderFailed, Wire
from embedder_proxy.metrics import EJECTIONS, EMBEDDERS, INFERENCE_SECONDS, RETRIES

log = structlog.get_logger(__name__)

_PROBE_TIMEOUT = 1.0
_RETRY_AFTER = 2
_LATE = 30.0  # seconds for which one that was late is asked only where there is no other
_ROUNDING = 0.25  # seconds by which a container may be early with its own 504


@dataclass(eq=False)
class Embedder:
    """One container. `reason` says why it is not asked; None where it is."""

    url: str
    in_flight: int = 0
    reason: str | None = "not looked at yet"
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
        return time.monotonic() - self.late_at < _LATE

    def note(self, progress: int | None) -> None:
        """Note how far the container says that its work is."""
        if self.progress is not None and progress is not None and progress != self.progress:
            self.progressed_at = time.monotonic()
        self.progress = progress


class _EmbedderLate(Exception):
    """No answer and no progress within the time for one attempt."""


class Pool:
    """
    Parameters
    ----------
    urls : containers; each address of a host name becomes one.
    space_id : the only space taken; None for the first that is found. All embedders in use share it.
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
        self._look: asyncio.Task[None] | None = None
        self.embedders: list[Embedder] = []
        self.space: Space | None = None

    async def watch(self) -> None:
        """Look at every embedder again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # a watch that ends would leave every embedder out for ever
                log.exception("looking at the embedders failed")
            await asyncio.sleep(self._probe_interval)

    async def look(self) -> None:
        """Find and probe all embedders; callers at the same time share one look."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_at_all())
        await asyncio.shield(self._look)

    def why_none_ready(self) -> str | None:
        if any(embedder.ready for embedder in self.embedders):
            return None
        reasons = "; ".join(f"{embedder.url}: {embedder.reason}" for embedder in self.embedders)
        return f"No embedding container is ready. {reasons or f'{self._urls} does not resolve.'}"

    async def embed(
        self,
        images: Sequence[bytes],
        selection: FaceSelection,
        deadline: Deadline,
        headers: Mapping[str, str],
    ) -> Embedded:
        """Ask an embedder, and another one where that fails: the call changes nothing, so it may be repeated.

        Raises `Problem`: ``embedder-unavailable`` 503, ``deadline-exceeded`` 504, ``busy`` 429.
        """
        tried: set[Embedder] = set()
        busy: Problem | None = None
        for _ in range(self._attempts):
            embedder = await self._choose(tried, deadline)
            if embedder is None or (embedder in tried and (busy is not None or embedder.late)):
                break  # nobody else is left, and asking the same one again would only add to its work
            if tried:
                RETRIES.labels("failed" if busy is None else "busy").inc()
            tried.add(embedder)
            try:
                return await self._ask(embedder, images, selection, deadline, headers)
            except EmbedderBusy as error:
                busy = error.problem
            except EmbedderFailed as error:
                self._eject(embedder, str(error))
            except _EmbedderLate:
                embedder.late_at = time.monotonic()
                await self._probe(embedder)
        raise busy or self._unavailable()

    async def _choose(self, tried: set[Embedder], deadline: Deadline) -> Embedder | None:
        """The ready embedder with the least to do, one that was not tried where there is one."""
        if not any(one.ready and one not in tried for one in self.embedders):
            try:
                async with asyncio.timeout(deadline.remaining):
                    await self.look()
            except TimeoutError:
                raise deadline.exceeded() from None
        ready = [one for one in self.embedders if one.ready]
        fresh = [one for one in ready if one not in tried]
        return min(fresh or ready, key=lambda one: (one.late, one.in_flight, one.asked_at), default=None)

    async def _ask(
        self,
        embedder: Embedder,
        images: Sequence[bytes],
        selection: FaceSelection,
        deadline: Deadline,
        headers: Mapping[str, str],
    ) -> Embedded:
        embedder.in_flight += 1
        embedder.asked_at = started = time.monotonic()
        call = self._wire.embed(embedder.url, images, selection, {**headers, **deadline.headers})
        work = asyncio.ensure_future(call)
        try:
            answer = await self._while_it_works(embedder, work, len(images), deadline)
        except TimeoutError:
            if deadline.remaining < _ROUNDING:  # it is the caller's time that is over
                raise deadline.exceeded() from None
            raise _EmbedderLate from None
        finally:
            embedder.in_flight -= 1
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if answer.space is not None:
            self._agree(answer.space)
        INFERENCE_SECONDS.observe(time.monotonic() - started)
        return answer

    async def _while_it_works(
        self, embedder: Embedder, work: asyncio.Future[Embedded], images: int, deadline: Deadline
    ) -> Embedded:
        """Wait for the answer while the container makes progress, or for the time of one attempt.

        Raises `TimeoutError` when the deadline passes, or the attempt's time without progress.
        """
        attempt = self._attempt_timeout + SECONDS_PER_IMAGE * (images - 1)
        started = time.monotonic()

        def rest() -> float:
            return max(started, embedder.progressed_at) + attempt - time.monotonic()

        while not work.done():
            if rest() <= 0:
                await self._probe(embedder)  # the last regular probe may be older than the last step
            if rest() <= 0 or deadline.remaining == 0:
                raise TimeoutError
            await asyncio.wait({work}, timeout=min(rest(), deadline.remaining))
        return work.result()

    def _agree(self, space: Space) -> None:
        """Raise `EmbedderFailed` for a space other than that of the embedders in use."""
        if self._space_id is not None and space.id != self._space_id:
            raise EmbedderFailed(f"has space {space}, not {self._space_id}")
        if space != self.space and any(embedder.ready for embedder in self.embedders):
            raise EmbedderFailed(f"has space {space}, not {self.space}")
        self.space = space

    def _eject(self, embedder: Embedder, reason: str) -> None:
        if embedder.ready:
            EJECTIONS.inc()
            log.warning("embedder taken out", embedder=embedder.url, reason=reason)
        embedder.reason = reason
        self._count()

    async def _look_at_all(self) -> None:
        found = await addresses(self._urls)
        known = {embedder.url: embedder for embedder in self.embedders}
        kept = [one for one in self.embedders if one.url in found or one.ready or one.in_flight]
        self.embedders = kept + [Embedder(url) for url in found if url not in known]
        await asyncio.gather(*(self._probe(embedder) for embedder in self.embedders))
        self._count()

    async def _probe(self, embedder: Embedder) -> None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                probed = await self._wire.probe(embedder.url)
            embedder.note(probed.progress)
            self._admit(embedder, probed.space)
        except TimeoutError:
            # One that is at work may be slow to say so; taking it out would push its load on the others.
            if embedder.late or not embedder.ready:
                self._eject(embedder, f"it does not say within {_PROBE_TIMEOUT:g} s that it is ready")
        except EmbedderFailed as error:
            self._eject(embedder, str(error))

    def _admit(self, embedder: Embedder, space: Space) -> None:
        self._agree(space)
        embedder.space = space
        if not embedder.ready:
            log.info("embedder taken in", embedder=embedder.url, space=str(space))
        embedder.reason = None

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
        if self._look is not None:
            self._look.cancel()
            with suppress(asyncio.CancelledError):
                await self._look
