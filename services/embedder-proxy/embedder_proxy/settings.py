"""Settings of the proxy."""

from typing import Annotated, ClassVar, Literal

from agegender.environment import Seconds
from agegender.http_clients import ServiceUrl
from agegender.spaces import NAME
from agegender_service.settings import BufferingSettings, Port, listed
from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

_YEAR = 365 * 24 * 60 * 60  # seconds; Redis accepts no end of them


class ProxySettings(BufferingSettings):
    model_config = SettingsConfigDict(env_prefix="PROXY_")
    formerly: ClassVar = {
        "PROXY_MAX_IMAGE_BYTES": "MAX_IMAGE_BYTES",
        "PROXY_MAX_IMAGE_PIXELS": "MAX_IMAGE_PIXELS",
        "PROXY_MAX_IMAGES": "MAX_IMAGES",
        "PROXY_MAX_REQUEST_BYTES": "MAX_REQUEST_BYTES",
        "PROXY_MAX_BODY_MEMORY": "MAX_BODY_MEMORY_BYTES",
        "PROXY_TIMEOUT": "PROXY_TIMEOUT_SECONDS",
        "PROXY_ATTEMPT_TIMEOUT": "PROXY_ATTEMPT_TIMEOUT_SECONDS",
        "PROXY_CACHE_TTL": "PROXY_CACHE_SECONDS",
    }
    constants: ClassVar = frozenset(
        {"read_timeout", "connect_timeout", "attempts", "probe_interval", "cache_timeout"}
    )

    port: Port = Field(
        10002, validation_alias=AliasChoices("PROXY_PORT", "PORT"), description="Port to listen on."
    )
    embedder_urls: Annotated[list[ServiceUrl], NoDecode] = Field(
        ["http://127.0.0.1:10001"],
        min_length=1,
        description="URLs of the embedders. Each address that a host name resolves to is one embedder.",
    )
    embedder_wire: Literal["agegender", "original"] = Field(
        "agegender",
        description="Wire format of the embedders: this project's, or the jsonpickle of "
        "tae898/face-detection-recognition.",
    )
    embedder_space: str | None = Field(
        None,
        description="Id of the only embedding space accepted. Default: the space of the first embedder, or "
        "original-512.",
    )
    max_in_flight: int = Field(
        16, gt=0, description="Maximum number of requests sent to the embedders at the same time."
    )
    max_waiting: int = Field(
        32, ge=0, description="Maximum number of requests that wait for an embedder. Beyond it: 429."
    )
    timeout: Seconds = Field(
        60,
        validation_alias=AliasChoices("PROXY_TIMEOUT_SECONDS"),
        description="Seconds to answer a request, plus one per further image. After that: 504.",
    )
    attempt_timeout: Seconds = Field(
        15,
        validation_alias=AliasChoices("PROXY_ATTEMPT_TIMEOUT_SECONDS"),
        description="Seconds without a response or progress of an embedder, plus one per further image. "
        "After that the request goes to another embedder.",
    )
    cache_ttl: int = Field(
        3600,
        ge=0,
        le=_YEAR,
        validation_alias=AliasChoices("PROXY_CACHE_SECONDS"),
        description="Seconds that faces stay in the cache. 0 turns the cache off.",
    )

    # Seconds and counts that only code sets.
    read_timeout: Seconds = Field(30)  # to receive the request body; then 408
    connect_timeout: Seconds = Field(1)  # to connect to an embedder
    attempts: int = Field(3, ge=1, le=10)  # embedders asked before a request fails
    probe_interval: Seconds = Field(2)  # between two probes of an embedder
    cache_timeout: Seconds = Field(0.25)  # for Redis to respond; then the cache is skipped

    @field_validator("embedder_urls", mode="before")
    @classmethod
    def _split_embedder_urls(cls, value: object) -> object:
        return listed(value) if isinstance(value, str) else value

    @field_validator("embedder_space")
    @classmethod
    def _check_embedder_space(cls, value: str | None) -> str | None:
        if value is not None and not NAME.fullmatch(value):
            raise ValueError("a space id has letters, digits, '.', '_' and '-' only")
        return value

    @property
    def cache_secret(self) -> bytes:
        """Return the key that signs cache entries; empty if the services have none."""
        return b"" if self.service_key is None else self.service_key.get_secret_value().encode()
