"""Settings that services share: network access, Redis, logs, and limits of images."""

import ipaddress
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

from agegender.environment import EnvironmentSettings, explain
from agegender.images import ImageLimits
from agegender.keys import ApiKey, Scope
from limits import parse_many
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode

# Exit status for unusable settings (sysexits.h). `make up` does not restart such a program.
UNUSABLE_SETTINGS = os.EX_CONFIG

Port = Annotated[int, Field(ge=0, le=65535)]
Settings = TypeVar("Settings", bound=EnvironmentSettings)

_MIB = 1024 * 1024
_OTHER_BYTES = _MIB  # of a request, besides its images

SERVICE = "service"  # name of the key with which the services call each other
_LEAST_SECRET = 20
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class BodyLimits:
    """Limits of one request, in bytes and images."""

    max_image_bytes: int = 20 * 1024 * 1024
    max_images: int = 64
    max_request_bytes: int = 100 * 1024 * 1024

    @property
    def max_body_bytes(self) -> int:
        """Return the most bytes that a route may accept: images in base64 or a URL, and other members."""
        return max(self.max_request_bytes * 4 // 3, self.max_image_bytes * 3 // 2) + _OTHER_BYTES


class ServiceSettings(EnvironmentSettings):
    """Settings of every service. Each service adds its own, with its own prefix."""

    host: str = Field("127.0.0.1", validation_alias=AliasChoices("HOST"), description="Address to listen on.")
    published_on: str | None = Field(
        None,
        validation_alias=AliasChoices("PUBLISHED_ON"),
        description="In a container: the address of the host on which the port is published.",
    )
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = Field(
        (),
        validation_alias=AliasChoices("API_KEYS"),
        description="API keys as `name:scope+scope:sha256`. `agegender key NAME` prints an entry.",
    )
    service_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SERVICE_KEY"),
        description="Secret with which the services call each other, required by `API_KEYS` and "
        "`RATE_LIMIT`.",
    )
    allow_anonymous: bool = Field(
        False,
        validation_alias=AliasChoices("ALLOW_ANONYMOUS"),
        description="Serve other machines without API keys.",
    )
    rate_limit: str | None = Field(
        None,
        validation_alias=AliasChoices("RATE_LIMIT"),
        description="Maximum rate of requests per caller, such as 60/minute.",
    )
    wrong_key_limit: str | None = Field(
        "60/minute",
        validation_alias=AliasChoices("WRONG_KEY_LIMIT"),
        description="Maximum rate of requests per address without a valid key, if keys are required.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias=AliasChoices("CORS_ORIGINS"),
        description="Web origins whose pages may read responses, such as https://example.org.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias=AliasChoices("ALLOWED_HOSTS"),
        description="Host names accepted in requests while no keys are required, besides local ones.",
    )

    # Validators are named after their fields: one of the same name in a subclass would replace them.
    data_dir: Path = Field(
        Path("data"),
        validation_alias=AliasChoices("DATA_DIR"),
        description="Folder of data sets, experiments and models, shared by the services.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("REDIS_URL"),
        description="URL of the Redis that holds the job queue, the cache and the rate limits.",
    )
    redis_password: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("REDIS_PASSWORD"),
        description="Password of Redis, if `REDIS_URL` does not contain one.",
    )
    redis_password_file: Path | None = Field(
        None,
        validation_alias=AliasChoices("REDIS_PASSWORD_FILE"),
        description="File that contains the password of Redis, if neither of the above does.",
    )
    log_format: Literal["console", "json"] = Field(
        "console",
        validation_alias=AliasChoices("LOG_FORMAT"),
        description="Format of the log. The images use json.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=AliasChoices("LOG_LEVEL"), description="Lowest level that is logged."
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _parse_api_keys(cls, value: Any) -> Any:
        return tuple(ApiKey.parse(entry) for entry in listed(value)) if isinstance(value, str) else value

    @field_validator("cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split_origins_and_hosts(cls, value: Any) -> Any:
        return tuple(listed(value)) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _check_cors_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_origin(entry) for entry in value)

    @field_validator("allowed_hosts")
    @classmethod
    def _check_allowed_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_host_name(entry) for entry in value)

    @field_validator("rate_limit", "wrong_key_limit")
    @classmethod
    def _check_rate_limits(cls, value: str | None) -> str | None:
        if value is not None:
            parse_many(value)
        return value

    @field_validator("service_key")
    @classmethod
    def _check_service_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value().strip()  # a header loses its blanks, and a file ends in a line break
        if not (key.isascii() and key.isprintable()):
            raise ValueError(
                "got a service key that no HTTP header can carry; expected printable ASCII characters, "
                "such as the output of `openssl rand -hex 32`"
            )
        if len(key) < _LEAST_SECRET:
            raise ValueError(
                f"got a service key of {len(key)} characters; it must have at least {_LEAST_SECRET}"
            )
        return SecretStr(key)

    @model_validator(mode="after")
    def _can_call_each_other(self) -> Self:
        if (self.api_keys or self.rate_limit) and self.service_key is None:
            raise ValueError(
                "API_KEYS and RATE_LIMIT need SERVICE_KEY, a secret with which the services call each other; "
                "set the same for all of them, such as the output of `openssl rand -hex 32`"
            )
        if "*" in self.cors_origins and not self.api_keys:
            raise ValueError(
                "CORS_ORIGINS=* needs API_KEYS: without keys every web page could use the service; "
                "list the origins instead, such as https://example.org"
            )
        if any(key.name == SERVICE for key in self.api_keys):
            raise ValueError(f"the name {SERVICE!r} is reserved for SERVICE_KEY; choose another name")
        return self

    @property
    def known_keys(self) -> tuple[ApiKey, ...]:
        """Return all valid keys, including that of the services."""
        if self.service_key is None:
            return self.api_keys
        own = ApiKey.of(self.service_key.get_secret_value(), SERVICE, [Scope.PREDICT])
        return (*self.api_keys, own)

    @property
    def service_headers(self) -> dict[str, str]:
        """Return the headers of a request to another service."""
        if self.service_key is None:
            return {}
        return {"Authorization": f"Bearer {self.service_key.get_secret_value()}"}

    def why_exposed(self) -> str | None:
        """Return why the service must not start: it would serve other machines without keys. Else None."""
        address = self.published_on or self.host
        if _is_this_machine(address) or self.api_keys or self.allow_anonymous:
            return None
        return (
            f"It would serve anyone who can reach {address}. Set API_KEYS (`agegender key NAME` creates "
            "one), or ALLOW_ANONYMOUS=1 to allow that, or listen on 127.0.0.1. See docs/security.md."
        )

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("expected a URL such as redis://127.0.0.1:6379/0")
        return value

    @model_validator(mode="after")
    def _redis_url_with_password(self) -> Self:
        parts = urlsplit(self.redis_url)
        if parts.password is None and (password := self._known_redis_password()):
            netloc = f"{parts.username or ''}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"
            self.redis_url = parts._replace(netloc=netloc).geturl()
        return self

    def _known_redis_password(self) -> str:
        if self.redis_password is not None:
            return self.redis_password.get_secret_value()
        if self.redis_password_file is None:
            return ""
        try:
            return self.redis_password_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise ValueError(f"REDIS_PASSWORD_FILE cannot be read: {error}") from error


class ImageSettings(ServiceSettings):
    """Limits of services that take images. All of these services read the same variables."""

    max_image_bytes: int = Field(
        20 * _MIB,
        gt=0,
        validation_alias=AliasChoices("MAX_IMAGE_BYTES"),
        description="Maximum bytes of an image file.",
    )
    max_image_pixels: int = Field(
        50_000_000,
        gt=0,
        validation_alias=AliasChoices("MAX_IMAGE_PIXELS"),
        description="Maximum pixels of an image (width times height), read from the file's header.",
    )
    max_images: int = Field(
        64,
        gt=0,
        validation_alias=AliasChoices("MAX_IMAGES"),
        description="Maximum number of images in a single request.",
    )
    max_request_bytes: int = Field(
        100 * _MIB,
        gt=0,
        validation_alias=AliasChoices("MAX_REQUEST_BYTES"),
        description="Maximum bytes of a request body.",
    )

    @property
    def body_limits(self) -> BodyLimits:
        return BodyLimits(self.max_image_bytes, self.max_images, self.max_request_bytes)

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(self.max_image_bytes, self.max_image_pixels)


class BufferingSettings(ImageSettings):
    """Limits of services that limit the memory of all request bodies together."""

    max_body_memory: int = Field(
        512 * _MIB,
        gt=0,
        validation_alias=AliasChoices("MAX_BODY_MEMORY_BYTES"),
        description="Maximum bytes of all request bodies held in memory. Beyond it: 429. Must have room for "
        "the largest request: 4/3 of `MAX_REQUEST_BYTES` or 3/2 of `MAX_IMAGE_BYTES`, plus 1 MiB.",
    )

    @model_validator(mode="after")
    def _largest_body_fits(self) -> Self:
        largest = self.body_limits.max_body_bytes
        if self.max_body_memory < largest:
            raise ValueError(
                f"MAX_BODY_MEMORY_BYTES={self.max_body_memory} has no room for the largest request, which "
                f"would always get 429; expected at least {largest}, or a smaller MAX_REQUEST_BYTES "
                f"({self.max_request_bytes}) and MAX_IMAGE_BYTES ({self.max_image_bytes})"
            )
        return self


class UnusableSettings(SystemExit):
    """End the program with `UNUSABLE_SETTINGS` and one line on standard error."""

    def __init__(self, message: str) -> None:
        super().__init__(UNUSABLE_SETTINGS)
        print(f"error: not started. {message}", file=sys.stderr, flush=True)


def read_settings(settings: type[Settings]) -> Settings:
    """Read a program's settings from the environment.

    Raises `UnusableSettings`, which names each invalid variable, its value unless it is a secret, and what
    was expected.
    """
    try:
        return settings()
    except ValidationError as error:
        raise UnusableSettings(explain(settings, error)) from None


def listed(value: str) -> list[str]:
    """Split a setting at commas and line breaks. Empty entries are dropped."""
    return [part.strip() for part in value.replace("\n", ",").split(",") if part.strip()]


def _origin(entry: str) -> str:
    """Return an origin as browsers send it: scheme, host and port without a trailing slash."""
    parts = urlsplit(entry)
    if entry == "*":
        return entry
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(
            f"got {entry!r}, which is not a web origin; expected one such as https://example.org"
        )
    if parts.query or parts.fragment or parts.username:
        raise ValueError(
            f"got {entry!r}, which is more than a web origin; expected one such as https://example.org"
        )
    return f"{parts.scheme}://{parts.netloc}".lower()


def _host_name(entry: str) -> str:
    if not _HOST_NAME.fullmatch(entry):
        raise ValueError(
            f"got {entry!r}, which is no host name; expected one such as faces.example.org, no port"
        )
    return entry.lower()


def _is_this_machine(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
