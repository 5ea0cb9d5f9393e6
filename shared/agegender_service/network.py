"""Settings of who may call a service, and the check that strangers may not by accident."""

import ipaddress
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from agegender.environment import EnvironmentSettings
from agegender.keys import ApiKey, Scope
from limits import parse_many
from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

SERVICE = "service"  # name of the key with which the services call each other
_LEAST_SECRET = 20
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class NetworkSettings(EnvironmentSettings):
    """Read from the environment; docs/security.md explains each."""

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
        if value is not None and len(value.get_secret_value()) < _LEAST_SECRET:
            raise ValueError(f"a service key must have at least {_LEAST_SECRET} characters")
        return value

    @model_validator(mode="after")
    def _can_call_each_other(self) -> "NetworkSettings":
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
