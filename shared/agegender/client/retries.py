"""When a request is sent again: where the service says so, or where it cannot have been answered."""

from typing import Any

import httpx
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from agegender.client.calls import Call
from agegender.client.settings import ClientSettings
from agegender.errors import Problem
from agegender.problem_documents import problem_in
from agegender.retry_after import retry_after_seconds

_growing = wait_exponential_jitter(multiplier=0.2, max=5)


class Interrupted(Problem):
    """The connection broke after the request was sent: the service may have acted on it."""

    def __init__(self, url: str) -> None:
        super().__init__("interrupted", 503, f"The connection to {url} broke before the answer was there.")


def problem_of(response: httpx.Response) -> Problem:
    """The problem document of a response that is no success, or one in its place."""
    if (told := problem_in(response)) is not None:
        return told
    retry_after = retry_after_seconds(response.headers.get("retry-after"))
    detail = f"{response.url} answered {response.status_code} {response.reason_phrase}."
    return Problem("http-error", response.status_code, detail, retry_after=retry_after)


def problem_of_transport(error: httpx.TransportError, url: str) -> Problem:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Problem(
            "unreachable",
            503,
            f"{url} cannot be reached. Start it with `make up` or `docker compose up`.",
        )
    if isinstance(error, httpx.TimeoutException):
        return Problem("timeout", 504, f"{url} did not answer in time.")
    return Interrupted(url)


def retrying(call: Call[Any], settings: ClientSettings) -> dict[str, Any]:
    """Arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying` for a call."""

    def again(error: BaseException) -> bool:
        if not isinstance(error, Problem):
            return False
        if isinstance(error, Interrupted):
            return call.repeatable
        # A service that says when to come again has not acted: RFC 9110, 10.2.3.
        return error.status in (429, 503) and error.retry_after is not None

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        told = error.retry_after if isinstance(error, Problem) else None
        return _growing(state) if told is None else max(float(told), 0.05)

    def stop(state: RetryCallState) -> bool:
        # The pause to come counts: rather tell the problem than wait beyond the caller's patience.
        pauses = state.idle_for + state.upcoming_sleep
        return pauses > settings.patience or stop_after_attempt(settings.attempts)(state)

    return {"retry": retry_if_exception(again), "wait": wait, "stop": stop, "reraise": True}
