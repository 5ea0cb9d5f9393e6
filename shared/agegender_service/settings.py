"""Settings that every service has, and the image limits of those that take images."""

import sys
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

from agegender.environment import EnvironmentSettings, explain
from agegender.images import ImageLimits
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator

from agegender_service.network import NetworkSettings
from agegender_service.request_body import BodyLimits

# Exit status for unusable settings (sysexits.h: EX_CONFIG). `make up` does not restart such a program.
UNUSABLE_SETTINGS = 78

Port = Annotated[int, Field(ge=0, le=65535)]
Settings = TypeVar("Settings", bound=EnvironmentSettings)

_MIB = 1024 * 1024


class ServiceSettings(NetworkSettings):
    """Settings of every service. Each service adds its own, with its own prefix."""

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
