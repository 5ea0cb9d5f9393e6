"""Settings that every service has. Each service adds its own, with its own prefix."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from agegender_service.network import NetworkSettings

# The exit status of a program whose settings must be changed before it can run (sysexits.h: EX_CONFIG).
# Starting it again is of no use; `make up` then stops.
UNUSABLE_SETTINGS = 78

Port = Annotated[int, Field(ge=0, le=65535)]
Settings = TypeVar("Settings", bound=BaseSettings)


class ServiceSettings(NetworkSettings):
    """Read from the environment; unknown values of known names are errors at start.

    An empty variable, as Compose passes on what is not set, means the default.
    """

    data_dir: Path = Field(
        Path("data"), validation_alias=AliasChoices("DATA_DIR"), description="the shared volume"
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("REDIS_URL"),
        description="queue and cache",
    )
    redis_password: SecretStr | None = Field(
        None, validation_alias=AliasChoices("REDIS_PASSWORD"), description="unless REDIS_URL has one"
    )
    redis_password_file: Path | None = Field(
        None,
        validation_alias=AliasChoices("REDIS_PASSWORD_FILE"),
        description="holds the password where neither of them gives it",
    )
    log_format: Literal["console", "json"] = Field(
        "console", validation_alias=AliasChoices("LOG_FORMAT"), description="json in containers"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=AliasChoices("LOG_LEVEL"), description="lowest level logged"
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


class UnusableSettings(SystemExit):
    """End the program with `UNUSABLE_SETTINGS` and one line on standard error."""

    def __init__(self, message: str) -> None:
        super().__init__(UNUSABLE_SETTINGS)
        print(f"error: not started. {message}", file=sys.stderr, flush=True)


def read_settings(settings: type[Settings]) -> Settings:
    """Read a program's settings from the environment.

    Raises `UnusableSettings`, which names each variable that is not usable, its value unless it is a secret,
    and what was expected.
    """
    try:
        return settings()
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise UnusableSettings("; ".join(_sentence(settings, item) for item in found)) from None


def variables(settings: type[BaseSettings], name: str) -> list[str]:
    """Return the environment variables that set a field, the first before the others."""
    field = settings.model_fields[name]
    if isinstance(field.validation_alias, AliasChoices):
        return [str(choice) for choice in field.validation_alias.choices]
    return [f"{settings.model_config.get('env_prefix', '')}{name}".upper()]


def _sentence(settings: type[BaseSettings], item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    names = {variable: name for name in settings.model_fields for variable in variables(settings, name)}
    variable = next((str(part).upper() for part in item["loc"] if str(part).upper() in names), None)
    if variable is None:  # loc is a field's name, or empty for a rule about several settings
        field = next((str(part) for part in item["loc"] if part in settings.model_fields), None)
        if field is None:
            return message
        variable = next((one for one in variables(settings, field) if os.environ.get(one)), field)
    given = os.environ.get(variable, "")
    secret = _is_secret(settings.model_fields[names.get(variable, "")]) if variable in names else True
    return f"{variable}: {message}" if secret else f"{variable}={given!r}: {message}"


def _is_secret(field: FieldInfo) -> bool:
    return (
        "Secret" in str(field.annotation)
        or "ApiKey" in str(field.annotation)
        or "redis" in str(field.validation_alias).lower()
    )
