"""Settings of the proxy, each from an environment variable; docs/proxy.md lists them."""

from typing import Annotated, Literal

from agegender.http_clients import ServiceUrl
from agegender.images import ImageLimits
from agegender.spaces import NAME
from agegender_service.network import listed
from agegender_service.settings import Port, ServiceSettings
from agegender_service.uploads import UploadLimits
from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

_MIB = 1024 * 1024


class ProxySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PROXY_", extra="ignore", populate_by_name=True)

    port: Port = Field(10002, validation_alias=AliasChoices("PORT"), description="port to listen on")

    embedder_urls: Annotated[list[ServiceUrl], NoDecode] = Field(
        ["http://127.0.0.1:10001"],
        min_length=1,
        description="embedding containers, comma-separated; each address of a host name counts as one",
    )
    embedder_wire: Literal["agegender", "original"] = Field(
        "agegender",
        description="ours, or the jsonpickle of tae898/face-detection-recognition",
    )
    embedder_space: str | None = Field(
        None,
        description="id of the only space taken; default: the first embedder's, or original-512",
    )

    max_image_bytes: int = Field(20 * _MIB, gt=0, description="of one image file")
    max_image_pixels: int = Field(50_000_000, gt=0, description="of one image, width times height")
    max_images: int = Field(64, gt=0, description="in one request")
    max_request_bytes: int = Field(100 * _MIB, gt=0, description="of one request's body")
    max_body_memory: int = Field(
        512 * _MIB, gt=0, description="of all bodies being read or answered, bytes; beyond it 429"
    )
    max_in_flight: int = Field(16, gt=0, description="requests at the embedders at once")
    max_waiting: int = Field(
        32, ge=0, description="requests that wait for one of those places; beyond it 429"
    )

    timeout: float = Field(
        60, gt=0, description="seconds for an answer, one more for each further image; 504 after it"
    )
    attempt_timeout: float = Field(
        15,
        gt=0,
        description="seconds without an answer or progress of one embedder, one more for each further image; "
        "then another is asked",
    )
    read_timeout: float = Field(
        30, gt=0, description="seconds for the request's body to arrive, 408 after it"
    )
    connect_timeout: float = Field(1, gt=0, description="seconds to connect to an embedder")
    attempts: int = Field(3, ge=1, le=10, description="embedders asked for one request before it fails")
    probe_interval: float = Field(2, gt=0, description="seconds between two looks at each embedder")

    cache_ttl: int = Field(3600, ge=0, description="seconds that faces stay in Redis; 0 turns the cache off")
    cache_timeout: float = Field(0.25, gt=0, description="seconds that Redis may take before it is left out")

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
        """What cache entries are sealed with; without a key the seal is a mere checksum."""
        return b"" if self.service_key is None else self.service_key.get_secret_value().encode()

    @property
    def uploads(self) -> UploadLimits:
        return UploadLimits(self.max_image_bytes, self.max_images, self.max_request_bytes)

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(self.max_image_bytes, self.max_image_pixels)
