"""Settings of the trainer's API and of its workers, each from an environment variable."""

from pathlib import Path
from typing import Literal

from agegender.http_clients import ServiceUrl
from agegender_service.settings import Port, ServiceSettings
from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict

_SHIPPED = Path(__file__).parents[2] / "predictor" / "heads"  # of a checkout; the image names its own

Device = Literal["auto", "cpu", "cuda"]


class TrainerSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="TRAINER_", extra="ignore", populate_by_name=True)

    port: Port = Field(
        10004, validation_alias=AliasChoices("TRAINER_PORT", "PORT"), description="port to listen on"
    )
    proxy_url: ServiceUrl = Field("http://127.0.0.1:10002", description="the embedder-proxy, for extraction")
    extract_in_flight: int = Field(
        2, gt=0, le=64, description="requests to the proxy that one extraction job has on the way at once"
    )
    threads: int = Field(
        1,
        ge=1,
        le=256,
        description="CPU threads of a training job; they may change a figure's last digits",
    )
    device: Device = Field(
        "auto", description="where heads are trained; auto is a GPU where torch finds one, else the CPU"
    )
    amp: bool = Field(False, description="forward passes in bfloat16, on a GPU; faster, and a little rougher")
    reconcile_seconds: float = Field(
        5, gt=0, le=60, description="how often the queue is compared with the files"
    )
    heads_dir: Path = Field(
        _SHIPPED,
        description="heads that came with the predictor, to compare with before others replace them",
    )
    heartbeat_seconds: int = Field(
        5,
        ge=1,
        le=60,
        description="how often a worker renews its job's heartbeat; after three times as long without one "
        "it is presumed dead, and another gets the job. The same for the trainer and all workers",
    )

    @property
    def presumed_dead_seconds(self) -> int:
        """Return how long a worker may be silent: a heartbeat may be late, and one may be lost."""
        return 3 * self.heartbeat_seconds
