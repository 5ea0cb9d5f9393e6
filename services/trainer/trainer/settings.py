"""Settings of the trainer's API and of its workers, each from an environment variable."""

from typing import Literal, Self

from agegender.network import ServiceUrl
from agegender.settings import Port, ServiceSettings
from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import SettingsConfigDict

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
    heartbeat_seconds: int = Field(
        5, ge=1, le=60, description="how often a worker renews the heartbeat of its job"
    )
    presumed_dead_seconds: int = Field(
        15,
        ge=3,
        le=600,
        description="a worker whose job has had no heartbeat for so long is presumed dead, and another gets "
        "the job; at least three heartbeats; the same for the trainer and all workers",
    )

    @model_validator(mode="after")
    def _late_heartbeat_is_no_death(self) -> Self:
        if self.presumed_dead_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(
                f"TRAINER_PRESUMED_DEAD_SECONDS is {self.presumed_dead_seconds}, but must be at least three "
                f"times TRAINER_HEARTBEAT_SECONDS, which is {self.heartbeat_seconds}: a worker that renews "
                "its heartbeat late is not dead."
            )
        return self
