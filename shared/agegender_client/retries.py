"""The retry policy, and the problems that stand for failed requests."""

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
    """The connection broke after the request was sent, so the service may have acted on it."""

    def __init__(self, url: str) -> None:
        super().__init__("interrupted", 503, f"The connection to {url} broke before the response arrived.")


def retry_options(call: Call[Any], settings: ClientSettings) -> dict[str, Any]:
    """Return arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying` for a call."""

    def should_retry(error: BaseException) -> bool:
        if not isinstance(error, Problem):
            return False
        if isinstance(error, Interrupted):
            return call.repeatable
        # A service that sends Retry-After has not acted on the request (RFC 9110, section 10.2.3).
        return error.status in (429, 503) and error.retry_after is not None

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        retry_after = error.retry_after if isinstance(error, Problem) else None
        return _growing(state) if retry_after is None else max(float(retry_after), 0.05)

    def stop(state: RetryCallState) -> bool:
        # The next pause counts: raise now rather than wait longer than the caller allows.
        pauses = state.idle_for + state.upcoming_sleep
        return pauses > settings.patience or stop_after_attempt(settings.attempts)(state)

    return {"retry": retry_if_exception(should_retry), "wait": wait, "stop": stop, "reraise": True}


def problem_of(response: httpx.Response, url: str) -> Problem:
    """Return the problem document of an error response, or a problem that describes it.

    url : address of the service.
    """
    problem = problem_in(response)
    path = urlsplit(url).path.rstrip("/")
    hint = (
        f" The service's address has the path {path!r}; leave it out, unless a gateway serves it there."
        if response.status_code == 404 and path and (problem is None or "/docs" in problem.detail)
        else ""
    )
    if problem is not None:
        if hint:
            problem.detail += hint
        return problem
    retry_after = retry_after_seconds(response.headers.get("retry-after"))
    detail = f"{response.url} responded {response.status_code} {response.reason_phrase}.{hint}"
    return Problem("http-error", response.status_code, detail, retry_after=retry_after)


def bad_answer(response: httpx.Response, service: str) -> Problem:
    """Return the problem of a successful response that cannot come from the service."""
    received = response.headers.get("content-type", "no content type")
    return Problem(
        "bad-answer",
        502,
        f"{response.url} responded with {received}, which is not a response of the {service}. "
        f"Is AGEGENDER_{service.upper()}_URL the {service}'s address?",
    )


def problem_of_transport(error: httpx.TransportError, url: str) -> Problem:
    """Return the problem of a request without a response."""
    if (proxy := environment_proxy(url)) is not None and isinstance(
        error, httpx.ProxyError | httpx.ConnectError | httpx.ConnectTimeout
    ):
        host = urlsplit(url).hostname
        return Problem(
            "unreachable",
            503,
            f"{url} cannot be reached through the proxy {proxy.shown}, which {proxy.variable} names "
            f"({error}). Correct it, or set NO_PROXY={host} to connect directly.",
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Problem(
            "unreachable",
            503,
            f"{url} cannot be reached. Start it with `make up` or `docker compose up`.",
        )
    if isinstance(error, httpx.TimeoutException):
        return Problem("timeout", 504, f"{url} did not respond in time.")
    return Interrupted(url)
