"""Settings that every service has. Each service adds its own, with its own prefix."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, model_validator

from agegender.network import NetworkSettings


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
