"""How long a caller still waits travels with the request, as milliseconds left: clocks need not agree."""

import math
import time
from dataclasses import dataclass

from agegender.errors import Problem
from fastapi import Request

DEADLINE_HEADER = "X-Deadline-Ms"
DEADLINE_PARAMETER = {  # in OpenAPI
    "name": DEADLINE_HEADER,
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "milliseconds that the caller still waits",
}


SECONDS_PER_IMAGE = 1.0  # that a request may take longer for each image after its first


@dataclass(frozen=True)
class Deadline:
    """A moment on this machine's monotonic clock, seconds.

    latest : the caller's own deadline, which is never extended.
    """

    at: float
    latest: float = math.inf

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    @classmethod
    def of_request(cls, request: Request, limit: float) -> "Deadline":
        """The caller's deadline, at most `limit` seconds from now. A header that is no number is 400."""
        given = request.headers.get(DEADLINE_HEADER)
        if given is None:
            return cls.after(limit)
        if not (given.isascii() and given.isdigit()):
            raise Problem(
                "bad-deadline", 400, f"{DEADLINE_HEADER} is the whole number of milliseconds still left."
            )
        latest = time.monotonic() + int(given[:12]) / 1000
        return cls(min(time.monotonic() + limit, latest), latest)

    def for_images(self, count: int) -> "Deadline":
        """Return the deadline of a request with `count` images: `SECONDS_PER_IMAGE` more for each further."""
        return Deadline(min(self.at + SECONDS_PER_IMAGE * max(0, count - 1), self.latest), self.latest)

    @property
    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at - time.monotonic())

    @property
    def headers(self) -> dict[str, str]:
        """For the request to the next service."""
        return {DEADLINE_HEADER: str(int(self.remaining * 1000))}

    def exceeded(self, *, close_connection: bool = False) -> Problem:
        return Problem(
            "deadline-exceeded",
            504,
            "The answer was not ready within the time allowed. Send fewer images in one request, "
            "ask for fewer faces (max_faces), or allow more time.",
            close_connection=close_connection,
        )
