"""Clients that ask for predictions again and again, and note what became of each request."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.photographs import one_face

SECONDS = 60.0  # after which a request counts as hung
_PAUSE = 0.15


@dataclass(frozen=True)
class Outcome:
    """began, ended : of `time.monotonic`. status : 0 where the connection failed. problem : its slug."""

    began: float
    ended: float
    status: int
    problem: str = ""
    retry_after: str | None = None

    @property
    def kept_promise(self) -> bool:
        """Answered, or refused with the time to come back."""
        return self.status == 200 or (self.status in (429, 503) and self.retry_after is not None)


@dataclass
class Traffic:
    """Load that leaves room for what a test does beside it. No cache answers: each image is a new file."""

    url: str
    clients: int = 2
    outcomes: list[Outcome] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _flows: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def _ask(self) -> None:
        picture = one_face()
        while not self._stop.is_set():
            self._flows.wait()
            # A connection each, as a kept one may be closed by a service that stops.
            self.outcomes.append(ask(self.url, picture + str(next(self._numbers)).encode()))
            self._stop.wait(_PAUSE)

    @contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        threads = [threading.Thread(target=self._ask) for _ in range(self.clients)]
        self._flows.set()
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._flows.set()
            for thread in threads:
                thread.join(SECONDS + 5)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the machine to what happens meanwhile."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    def answered(self, since: float) -> bool:
        """Return whether a request that began since then has been answered with a prediction."""
        return any(outcome.began >= since and outcome.status == 200 for outcome in self.outcomes)

    def after(self, moment: float) -> list[Outcome]:
        """Return the outcomes of the requests that ended since then."""
        return [outcome for outcome in self.outcomes if outcome.ended >= moment]


def ask(url: str, *pictures: bytes) -> Outcome:
    began = time.monotonic()
    files = [("image", ("x", picture)) for picture in pictures]
    try:
        answer = httpx.post(f"{url}/age-gender", files=files, timeout=SECONDS)
    except httpx.TransportError as error:
        return Outcome(began, time.monotonic(), 0, type(error).__name__)
    ended = time.monotonic()
    if answer.is_success:
        return Outcome(began, ended, 200)
    slug = str(answer.json()["type"]).rsplit(":", 1)[-1]
    return Outcome(began, ended, answer.status_code, slug, answer.headers.get("retry-after"))
