"""Settings of the predictor, each from an environment variable; docs/serving.md lists them."""

from pathlib import Path

from agegender.cpus import available_cpus
from agegender.http_clients import ServiceUrl
from agegender.images import ImageLimits
from agegender_service.settings import Port, ServiceSettings
from agegender_service.uploads import UploadLimits
from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict

_MIB = 1024 * 1024
_SHIPPED = Path(__file__).parents[1] / "heads"


class PredictorSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PREDICTOR_", extra="ignore", populate_by_name=True)

    port: Port = Field(
        10003, validation_alias=AliasChoices("PREDICTOR_PORT", "PORT"), description="port to listen on"
    )

    proxy_url: ServiceUrl = Field(
        "http://127.0.0.1:10002", description="the embedder-proxy that finds the faces"
    )
    heads_dir: Path = Field(
        _SHIPPED, description="heads that came with the program; DATA_DIR/models goes first"
    )
    poll_interval: float = Field(1, gt=0, description="seconds between two looks for promoted heads")

    max_image_bytes: int = Field(20 * _MIB, gt=0, description="of one image file")
    max_image_pixels: int = Field(50_000_000, gt=0, description="of an image that is to be annotated")
    max_images: int = Field(64, gt=0, description="in one request")
    max_request_bytes: int = Field(100 * _MIB, gt=0, description="of one request's body")
    max_body_memory: int = Field(
        512 * _MIB, gt=0, description="of all bodies being read or answered, bytes; beyond it 429"
    )
    max_embeddings: int = Field(4096, gt=0, description="in one request")

    timeout: float = Field(
        30, gt=0, description="seconds for an answer, one more for each further image; 504 after it"
    )
    read_timeout: float = Field(
        30, gt=0, description="seconds for the request's body to arrive, 408 after it"
    )
    connect_timeout: float = Field(1, gt=0, description="seconds to connect to the proxy")

    threads: int = Field(
        default_factory=lambda: min(2, available_cpus()),
        gt=0,
        description="batches of faces computed at once",
    )
    max_batch_faces: int = Field(256, gt=0, description="faces that go through the heads together")
    max_waiting_faces: int = Field(4096, gt=0, description="faces that wait for the heads; beyond it 429")
    max_waiting: int = Field(
        32,
        ge=0,
        description="requests that wait for Monte-Carlo dropout, and that wait for drawing; beyond it 429",
    )
    mc_passes: int = Field(512, gt=0, le=4096, description="of uncertainty=mc-dropout")

    @property
    def models_dir(self) -> Path:
        """Where the trainer promotes heads to."""
        return self.data_dir / "models"

    @property
    def uploads(self) -> UploadLimits:
        return UploadLimits(self.max_image_bytes, self.max_images, self.max_request_bytes)

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(self.max_image_bytes, self.max_image_pixels)
