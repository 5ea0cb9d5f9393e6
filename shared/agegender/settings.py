"""Settings that every service has. Each service adds its own, with its own prefix."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field

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
    log_format: Literal["console", "json"] = Field(
        "console", validation_alias=AliasChoices("LOG_FORMAT"), description="json in containers"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=AliasChoices("LOG_LEVEL"), description="lowest level logged"
    )
