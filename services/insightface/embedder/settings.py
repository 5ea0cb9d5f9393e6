"""Settings of the embedding service."""

from pathlib import Path
from typing import ClassVar

from agegender.environment import Seconds
from agegender_service.settings import ImageSettings, Port
from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict


class EmbedderSettings(ImageSettings):
    model_config = SettingsConfigDict(env_prefix="EMBEDDER_")
    formerly: ClassVar = {
        "EMBEDDER_MAX_BYTES": "MAX_IMAGE_BYTES",
        "EMBEDDER_MAX_PIXELS": "MAX_IMAGE_PIXELS",
        "EMBEDDER_MAX_IMAGES": "MAX_IMAGES",
        "EMBEDDER_MAX_BODY_BYTES": "MAX_REQUEST_BYTES",
        "EMBEDDER_TIMEOUT": "EMBEDDER_TIMEOUT_SECONDS",
        "EMBEDDER_LOAD_TIMEOUT": "EMBEDDER_LOAD_TIMEOUT_SECONDS",
    }

    port: Port = Field(
        10001, validation_alias=AliasChoices("EMBEDDER_PORT", "PORT"), description="Port to listen on."
    )
    pack: str = Field(
        "human",
        pattern=r"^(human(-[23])?|(human\+)?[a-z0-9_]+)$",
        description="Pack of models: human or human-3 (MIT, CC0 and, for SFace, Apache-2.0; the training "
        "data of SFace are not documented); human-2 (MIT), the default of earlier releases; buffalo_l, "
        "buffalo_s, antelopev2, … (non-commercial research); human+buffalo_l, the embedders of "
        "human-2 and of buffalo_l (non-commercial research).",
    )
    pack_dir: Path | None = Field(
        None, description="Folder with the models of the pack. Without it they are downloaded."
    )
    human_dir: Path | None = Field(
        None, description="Folder with the models of the human pack. Without it they are downloaded."
    )
    load_timeout: Seconds = Field(
        1800,
        validation_alias=AliasChoices("EMBEDDER_LOAD_TIMEOUT_SECONDS"),
        description="Seconds to download and load the pack, retries included. After that the process exits.",
    )
    threads: int = Field(
        0, ge=0, description="Threads of ONNX Runtime. 0 uses as many as CPUs are available."
    )
    max_faces: int = Field(
        100,
        gt=0,
        description="Maximum number of faces embedded per image, the largest first. If there are more, the "
        "response has `truncated`.",
    )
    batch_images: int = Field(
        4,
        gt=0,
        description="Maximum number of images, also of different requests, whose faces are embedded in one "
        "batch. Larger values pay on a GPU only.",
    )
    timeout: Seconds = Field(
        60,
        validation_alias=AliasChoices("EMBEDDER_TIMEOUT_SECONDS"),
        description="Seconds to answer a request, plus one per further image. After that: 504.",
    )

    @property
    def packs_dir(self) -> Path:
        return self.data_dir / "packs"
