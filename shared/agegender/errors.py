"""`Problem`, the exception that services raise on purpose, and its RFC 9457 documents in both directions."""

import errno
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import httpx

PROBLEM_MEDIA_TYPE = "application/problem+json"
_VOLUME_RETRY_AFTER = 30
_REASONS = {
    errno.ENOSPC: "The volume is full.",
    errno.EDQUOT: "The volume's quota is used up.",
    errno.EROFS: "The volume is read-only.",
}
_CURE = "Stored data is intact. Free space, or mount it writable, and retry."
_FULL = "The service is at its limit of concurrent requests. Retry later."


class Problem(Exception):
    """An error that a user can act on.

    Parameters
    ----------
    slug : stable, lower-case name of the error; becomes ``type``.
    status : HTTP status.
    detail : what was received, what was expected, and what to do, in one or two sentences.
    retry_after : seconds after which the same request may succeed; None if it cannot.
    close_connection : whether to close the connection without reading the rest of the request.
    extra : further members of the problem document (RFC 9457, section 3.2).
    """

    def __init__(
        self,
        slug: str,
        status: int,
        detail: str,
        *,
        retry_after: int | None = None,
        close_connection: bool = False,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.close_connection = close_connection
        self.extra = extra

    def as_value(self) -> Self:
        """Return the problem, to keep or to render, without its causes and frames (see `forget_frames`)."""
        forget_frames(self)
        self.__cause__ = self.__context__ = None
        return self

    def because_of(self, cause: Exception) -> Self:
        """Return the problem with its cause, which loses its own causes and frames: they hold images."""
        cause.__cause__ = cause.__context__ = None
        self.__cause__ = cause.with_traceback(None)
        return self

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return {**headers, "Connection": "close"} if self.close_connection else headers

    def document(self) -> dict[str, Any]:
        """Return the problem document of RFC 9457."""
        return {
            "type": f"urn:age-gender:problem:{self.slug}",
            "title": self.slug.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], *, retry_after: int | None = None) -> "Problem":
        """Return the problem of another service's response, to pass it on unchanged."""
        problem = cls(
            str(document.get("type", "")).rsplit(":", 1)[-1] or "unknown",
            int(document.get("status", 500)),
            str(document.get("detail", "")),
            retry_after=retry_after,
        )
        known = {"type", "title", "status", "detail"}
        problem.extra = {name: value for name, value in document.items() if name not in known}
        return problem


def not_found(what: str, name: str, **extra: Any) -> Problem:
    return Problem("not-found", 404, f"There is no {what} named {name!r}.", **extra)


def not_ready(reason: str, *, retry_after: int = 2) -> Problem:
    return Problem("not-ready", 503, reason, retry_after=retry_after)


def busy(detail: str = _FULL, *, retry_after: int = 1) -> Problem:
    return Problem("busy", 429, detail, retry_after=retry_after)


def client_closed_request() -> Problem:
    """Return the problem that logs and metrics record when a client disconnects (499, as in nginx)."""
    return Problem("client-closed-request", 499, "The client disconnected before the response was ready.")


def space_mismatch(expected: str, given: str, detail: str | None = None) -> Problem:
    """Return ``space-mismatch`` 409. Its member `wanted` is the former name of `expected`."""
    detail = detail or (
        f"Received embeddings of space {given!r}, expected {expected!r}. Embeddings of different models "
        "cannot be mixed. Extract the images again with the pack of the expected space, or serve the other "
        "one."
    )
    problem = Problem("space-mismatch", 409, detail, expected=expected, given=given)
    problem.extra["wanted"] = expected
    return problem


def retry_after_seconds(header: str | None) -> int | None:
    """Return the seconds of a `Retry-After` header (RFC 9110, 10.2.3), which has a number or a date.

    A past date gives 0. Anything else gives None.
    """
    if not header:
        return None
    if header.isascii() and header.isdigit():
        return int(header[:9])
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    if at.tzinfo is None:  # dates without a zone are in UTC
        at = at.replace(tzinfo=UTC)
    return max(0, math.ceil((at - datetime.now(UTC)).total_seconds()))


def forget_frames(error: BaseException) -> None:
    """Clear the frames that raised an error and its causes, and let the errors forget them.

    They hold images. Some hold themselves, and would live until Python collects garbage: those of
    `contextlib.AsyncExitStack` in which an exit raises, and those that were writing when a connection of
    asyncio was reset, since the connection keeps the error. No other task may have raised the error or its
    causes, and no caller may be handling another error that it still needs: their frames are cleared too.
    """
    errors: list[BaseException | None] = [error]
    known: set[int] = set()
    while errors:
        one = errors.pop()
        if one is not None and id(one) not in known:
            known.add(id(one))
            clear_frames(one.__traceback__)
            one.__traceback__ = None
            errors += [one.__cause__, one.__context__]


def problem_in(response: "httpx.Response") -> Problem | None:
    """Return the problem document of an error response, with its `Retry-After`; None if it has none."""
    try:
        document = response.json()
    except ValueError:
        return None
    if not isinstance(document, dict) or "type" not in document:
        return None
    retry_after = retry_after_seconds(response.headers.get("retry-after"))
    return Problem.from_document({**document, "status": response.status_code}, retry_after=retry_after)


def volume_problem(error: OSError) -> Problem | None:
    """Return ``volume-not-writable`` 503 if a write failed because of the volume, None for other errors.

    Without `Retry-After` if access was denied: that does not pass by itself.
    """
    if error.errno in (errno.EACCES, errno.EPERM):
        detail = (
            f"The service runs as user {os.geteuid()} and has no access to {error.filename or 'a file'} of "
            "another user. Give it read and write access. For the containers, "
            "`docker compose run --rm data-init` gives it to all folders in data/."
        )
        return Problem("volume-not-writable", 503, detail)
    reason = _REASONS.get(error.errno or 0)
    if reason is None:
        return None
    return Problem("volume-not-writable", 503, f"{reason} {_CURE}", retry_after=_VOLUME_RETRY_AFTER)
