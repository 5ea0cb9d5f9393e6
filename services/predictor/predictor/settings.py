"""Settings of the predictor."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from agegender.environment import Seconds, available_cpus
from agegender.http_clients import ServiceUrl
from agegender_service.settings import BufferingSettings, Port
from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from predictor.aws_signatures import AwsCredential

_SHIPPED = Path(__file__).parents[1] / "heads"


class PredictorSettings(BufferingSettings):
    model_config = SettingsConfigDict(env_prefix="PREDICTOR_")
    formerly: ClassVar = {
        "PREDICTOR_PROXY_URL": "PROXY_URL",
        "PREDICTOR_HEADS_DIR": "HEADS_DIR",
        "PREDICTOR_MAX_IMAGE_BYTES": "MAX_IMAGE_BYTES",
        "PREDICTOR_MAX_IMAGE_PIXELS": "MAX_IMAGE_PIXELS",
        "PREDICTOR_MAX_IMAGES": "MAX_IMAGES",
        "PREDICTOR_MAX_REQUEST_BYTES": "MAX_REQUEST_BYTES",
        "PREDICTOR_MAX_BODY_MEMORY": "MAX_BODY_MEMORY_BYTES",
        "PREDICTOR_TIMEOUT": "PREDICTOR_TIMEOUT_SECONDS",
    }
    constants: ClassVar = frozenset(
        {
            "poll_interval",
            "read_timeout",
            "connect_timeout",
            "max_embeddings",
            "max_batch_faces",
            "max_waiting_faces",
            "max_waiting",
            "mc_passes",
        }
    )

    port: Port = Field(
        10003, validation_alias=AliasChoices("PREDICTOR_PORT", "PORT"), description="Port to listen on."
    )
    proxy_url: ServiceUrl = Field(
        "http://127.0.0.1:10002",
        validation_alias=AliasChoices("PROXY_URL"),
        description="URL of the embedder-proxy.",
    )
    heads_dir: Path = Field(
        _SHIPPED,
        validation_alias=AliasChoices("HEADS_DIR"),
        description="Folder of the heads that come with the program. Promoted heads in `DATA_DIR`/models "
        "take precedence.",
    )
    timeout: Seconds = Field(
        30,
        validation_alias=AliasChoices("PREDICTOR_TIMEOUT_SECONDS"),
        description="Seconds to answer a request, plus one per further image. After that: 504.",
    )
    threads: int = Field(
        default_factory=lambda: min(2, available_cpus()),
        gt=0,
        description="Number of threads that compute batches of faces.",
    )
    rekognition_credentials: Annotated[tuple[AwsCredential, ...], NoDecode] = Field(
        (),
        repr=False,
        validation_alias=AliasChoices("REKOGNITION_CREDENTIALS"),
        description="Access keys of AWS SDKs as `access-key-id:secret:name`. They have the scopes of the key "
        "`name` in `API_KEYS`.",
    )

    # Seconds and counts that only code sets.
    poll_interval: Seconds = Field(1)  # between two checks for promoted heads
    read_timeout: Seconds = Field(30)  # to receive the request body; then 408
    connect_timeout: Seconds = Field(1)  # to connect to the proxy
    max_embeddings: int = Field(4096, gt=0)  # in one request
    max_batch_faces: int = Field(256, gt=0)  # that go through the heads together
    max_waiting_faces: int = Field(4096, gt=0)  # that wait for the heads; beyond it 429
    max_waiting: int = Field(32, ge=0)  # requests that wait for mc-dropout, and for drawing; beyond it 429
    mc_passes: int = Field(512, gt=0, le=4096)  # forward passes of uncertainty=mc-dropout

    @field_validator("rekognition_credentials", mode="before")
    @classmethod
    def _parse_rekognition_credentials(cls, value: Any) -> Any:
        return AwsCredential.parse_all(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _rekognition_credentials_have_keys(self) -> Self:
        names = {key.name for key in self.api_keys}
        for credential in self.rekognition_credentials:
            if credential.key_name not in names:
                raise ValueError(
                    f"REKOGNITION_CREDENTIALS maps {credential.access_key_id} to the key "
                    f"{credential.key_name!r}, which is not in API_KEYS (`agegender key NAME` makes one)"
                )
        return self

    @property
    def models_dir(self) -> Path:
        """Return the folder that the trainer promotes heads to."""
        return self.data_dir / "models"
