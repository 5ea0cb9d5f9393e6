"""Settings of the trainer's API and of its workers."""

from pathlib import Path
from typing import ClassVar, Literal

from agegender.http_clients import ServiceUrl
from agegender_service.settings import Port, ServiceSettings
from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict

_SHIPPED = Path(__file__).parents[2] / "predictor" / "heads"  # of a checkout; the image sets HEADS_DIR

Device = Literal["auto", "cpu", "cuda"]


class TrainerSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="TRAINER_")
    formerly: ClassVar = {"TRAINER_PROXY_URL": "PROXY_URL", "TRAINER_HEADS_DIR": "HEADS_DIR"}

    port: Port = Field(
        10004, validation_alias=AliasChoices("TRAINER_PORT", "PORT"), description="Port to listen on."
    )
    proxy_url: ServiceUrl = Field(
        "http://127.0.0.1:10002",
        validation_alias=AliasChoices("PROXY_URL"),
        description="URL of the embedder-proxy.",
    )
    predictor_url: ServiceUrl = Field(
        "http://127.0.0.1:10003",
        validation_alias=AliasChoices("PREDICTOR_URL"),
        description="URL of the predictor, which answers the frames of videos.",
    )
    extract_in_flight: int = Field(
        2,
        gt=0,
        le=64,
        description="Maximum number of requests that an extraction job sends to the proxy at the same time.",
    )
    threads: int = Field(
        1,
        ge=1,
        le=256,
        description="CPU threads of a training job. Another number may change the last digits of metrics.",
    )
    device: Device = Field(
        "auto", description="Device that trains heads. auto uses a GPU if torch finds one, else the CPU."
    )
    amp: bool = Field(
        False, description="Compute forward passes in bfloat16 on a GPU: faster and less precise."
    )
    reconcile_seconds: float = Field(
        5, gt=0, le=60, description="Seconds between two checks that every unfinished step has a job."
    )
    heads_dir: Path = Field(
        _SHIPPED,
        validation_alias=AliasChoices("HEADS_DIR"),
        description="Folder of the heads that come with the predictor. New heads are compared with them.",
    )
    heartbeat_seconds: int = Field(
        5,
        ge=1,
        le=60,
        description="Seconds between two heartbeats of a worker. Without one for three times as long it is "
        "presumed dead, and another worker takes its job. Set the same for the trainer and all workers.",
    )

    @property
    def presumed_dead_seconds(self) -> int:
        """Return how long a worker may be silent: a heartbeat may be late, and one may be lost."""
        return 3 * self.heartbeat_seconds
