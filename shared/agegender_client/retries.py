"""When a request is sent again: where the service says so, or where it cannot have been answered."""

from typing import Any
from urllib.parse import urlsplit

import httpx
from agegender.errors import Problem, problem_in, retry_after_seconds
from agegender.http_clients import environment_proxy
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from agegender_client.calls import Call
from agegender_client.settings import ClientSettings

_growing = wait_exponential_jitter(multiplier=0.2, max=5)


class Interrupted(Problem):
    """The connection broke after the request was sent: the service may have acted on it."""

    def __init__(self, url: str) -> None:
        super().__init__("interrupted", 503, f"The connection to {url} broke before the answer was there.")


def problem_of(response: httpx.Response, url: str) -> Problem:
    """The problem document of a response that is no success, or one in its place; `url` is the service's."""
    told = problem_in(response)
    path = urlsplit(url).path.rstrip("/")
    hint = (
        f" The service's address has the path {path!r}; leave it out, unless a gateway serves it there."
        if response.status_code == 404 and path and (told is None or "/docs" in told.detail)
        else ""
    )
    if told is not None:
        if hint:
            told.detail += hint
        return told
    retry_after = retry_after_seconds(response.headers.get("retry-after"))
    detail = f"{response.url} answered {response.status_code} {response.reason_phrase}.{hint}"
    return Problem("http-error", response.status_code, detail, retry_after=retry_after)


def bad_answer(response: httpx.Response, service: str) -> Problem:
    """For a success that is not what the service answers: another program is at its address."""
    kind = response.headers.get("content-type", "no content type")
    return Problem(
        "bad-answer",
        502,
        f"{response.url} answered {kind}, which is not the {service}'s answer. "
        f"Is AGEGENDER_{service.upper()}_URL the {service}'s address?",
    )


def problem_of_transport(error: httpx.TransportError, url: str) -> Problem:
    if (proxy := environment_proxy(url)) is not None and isinstance(
        error, httpx.ProxyError | httpx.ConnectError | httpx.ConnectTimeout
    ):
        host = urlsplit(url).hostname
        return Problem(
            "unreachable",
            503,
            f"{url} cannot be reached through the proxy {proxy.shown}, "
            f"which {proxy.variable} names ({error}). "
            f"Correct it, or set NO_PROXY={host} to connect directly.",
        )
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
