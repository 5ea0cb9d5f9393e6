"""How long a caller still waits travels with the request, as milliseconds left: clocks need not agree."""

import time
from dataclasses import dataclass

from fastapi import Request

from agegender.errors import Problem

DEADLINE_HEADER = "X-Deadline-Ms"
DEADLINE_PARAMETER = {  # in OpenAPI
    "name": DEADLINE_HEADER,
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "milliseconds that the caller still waits",
}


@dataclass(frozen=True)
class Deadline:
    """A moment on this machine's monotonic clock, seconds."""

    at: float

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
        return cls.after(min(limit, int(given[:12]) / 1000))

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
            "The answer was not ready within the time allowed.",
            close_connection=close_connection,
        )
