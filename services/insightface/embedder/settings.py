"""What the embedding container can be told by environment variables."""

from pathlib import Path

from agegender_service.settings import Port, ServiceSettings
from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict


class EmbedderSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EMBEDDER_", extra="ignore", populate_by_name=True)

    port: Port = Field(
        10001, validation_alias=AliasChoices("EMBEDDER_PORT", "PORT"), description="port to listen on"
    )
    pack: str = Field(
        "human",
        pattern=r"^(human|(human\+)?[a-z0-9_]+)$",
        description="human (MIT); buffalo_l, buffalo_s, antelopev2, … (non-commercial research); "
        "or both side by side, human+buffalo_l (non-commercial research)",
    )
    pack_dir: Path | None = Field(None, description="folder of the pack, where it need not be fetched")
    human_dir: Path | None = Field(None, description="folder of the human pack, where it need not be fetched")
    load_timeout: float = Field(
        1800,
        gt=0,
        description="seconds for loading the pack, failed downloads and new tries included; "
        "then the process ends",
    )
    threads: int = Field(0, ge=0, description="ONNX Runtime threads; 0 means the CPUs that are really there")
    max_bytes: int = Field(20 * 1024 * 1024, gt=0, description="of one image")
    max_pixels: int = Field(50_000_000, gt=0, description="of one image")
    max_images: int = Field(64, gt=0, description="in one request")
    max_faces: int = Field(
        100, gt=0, description="faces embedded per image; beyond it the largest, and `truncated`"
    )
    batch_images: int = Field(
        4, gt=0, description="images of waiting requests whose faces are embedded together; more on a GPU"
    )
    max_body_bytes: int = Field(100 * 1024 * 1024, gt=0, description="of one request")
    timeout: float = Field(
        60,
        gt=0,
        description="seconds for an answer, one more for each further image; 504 after it",
    )

    @property
    def packs_dir(self) -> Path:
        return self.data_dir / "packs"
