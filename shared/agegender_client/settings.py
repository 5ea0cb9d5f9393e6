"""Settings of the client, its retry policy, and the problems that stand for failed requests."""

from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

import httpx
from agegender.environment import MAX_SECONDS, EnvironmentSettings, Seconds, explain
from agegender.errors import Problem, problem_in, retry_after_seconds
from agegender.http_clients import UserUrl, bad_settings, environment_proxy
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict
from tenacity import RetryCallState, retry_if_result, stop_after_attempt, wait_exponential_jitter


class ClientSettings(EnvironmentSettings):
    """Each is given by name, or read from an environment variable such as `AGEGENDER_PREDICTOR_URL`.

    attempts : maximum number of times that a request is sent.
    patience : maximum seconds of all pauses between attempts together.
    """

    model_config = SettingsConfigDict(env_prefix="AGEGENDER_")
    formerly: ClassVar = {"AGEGENDER_TIMEOUT": "AGEGENDER_TIMEOUT_SECONDS"}
    constants: ClassVar = frozenset({"attempts", "patience"})

    predictor_url: UserUrl = Field("http://127.0.0.1:10003", description="URL of the predictor.")
    trainer_url: UserUrl = Field("http://127.0.0.1:10004", description="URL of the trainer.")
    proxy_url: UserUrl = Field("http://127.0.0.1:10002", description="URL of the embedder-proxy.")
    api_key: SecretStr | None = Field(None, description="API key sent with every request.")
    timeout: Seconds = Field(
        60,
        validation_alias=AliasChoices("AGEGENDER_TIMEOUT_SECONDS"),
        description="Seconds to wait for a response.",
    )
    attempts: int = Field(5, ge=1)
    patience: float = Field(30, ge=0, le=MAX_SECONDS, allow_inf_nan=False)

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value().strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("a key has printable ASCII characters and no blanks; `agegender key` makes one")
        return SecretStr(key)

    @classmethod
    def from_environment(cls) -> Self:
        """Return the settings of the environment.

        Raises `Problem` ``bad-settings``, which names each invalid variable.
        """
        try:
            settings = cls()
        except ValidationError as error:
            raise bad_settings(f"{explain(cls, error)}.") from None
        cls.log_deprecations()
        return settings

    @classmethod
    def checked(cls, settings: Self | None) -> Self:
        """Return the given settings or those of the environment; raise `TypeError` for other types."""
        if settings is None:
            return cls.from_environment()
        if isinstance(settings, cls):
            return settings
        raise TypeError(
            f"settings: got a {type(settings).__name__}; expected a ClientSettings,"
            " such as ClientSettings(predictor_url='http://127.0.0.1:10003')"
        )

    @property
    def urls(self) -> dict[Literal["predictor", "trainer", "proxy"], str]:
        return {"predictor": self.predictor_url, "trainer": self.trainer_url, "proxy": self.proxy_url}

    def headers(self, url: str) -> dict[str, str]:
        """Return the API key as headers for requests to `url`.

        With a user name in the URL, `Authorization` carries that, and the key goes into `X-API-Key`.
        """
        if self.api_key is None:
            return {}
        key = self.api_key.get_secret_value()
        return {"X-API-Key": key} if urlsplit(url).username else {"Authorization": f"Bearer {key}"}


_growing = wait_exponential_jitter(multiplier=0.2, max=5)


class Interrupted(Problem):
    """The connection broke after the request was sent, so the service may have acted on it."""

    def __init__(self, url: str) -> None:
        super().__init__("interrupted", 503, f"The connection to {url} broke before the response arrived.")


def retry_options(repeatable: bool, settings: ClientSettings) -> dict[str, Any]:
    """Return arguments of `tenacity.Retrying` and `AsyncRetrying` for a function that returns its problems.

    repeatable : whether a call that may have been carried out can be sent again. Nothing else of the call is
        kept here, because tenacity's objects live until Python collects garbage.
    """

    def should_retry(answer: object) -> bool:
        if isinstance(answer, Interrupted):
            return repeatable
        # A service that sends Retry-After has not acted on the request (RFC 9110, section 10.2.3).
        return isinstance(answer, Problem) and answer.status in (429, 503) and answer.retry_after is not None

    def wait(state: RetryCallState) -> float:
        problem = _result(state)
        return _growing(state) if problem.retry_after is None else max(float(problem.retry_after), 0.05)

    def stop(state: RetryCallState) -> bool:
        # The next pause counts: fail now rather than wait longer than the caller allows.
        pauses = state.idle_for + state.upcoming_sleep
        return pauses > settings.patience or stop_after_attempt(settings.attempts)(state)

    return {
        "retry": retry_if_result(should_retry),
        "wait": wait,
        "stop": stop,
        "retry_error_callback": _result,  # of the last attempt
    }


def _result(state: RetryCallState) -> Any:
    assert state.outcome is not None
    return state.outcome.result()


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


def stopped_watching(problem: Problem | None, url: str, seconds: float) -> Problem:
    """Return the problem of a watched run without any state for so many seconds.

    problem : that of the last attempt; None if its stream ended without a state.
    """
    reason = problem.detail if problem else f"{url} ended the stream of events early."
    detail = f"{reason} No state has arrived for {seconds:.0f} s. The run continues on the trainer."
    return Problem("interrupted", 503, detail)
