"""What the predictor can be asked over HTTP beside the images themselves."""

from enum import StrEnum
from typing import Annotated, Literal

from agegender.faces import FaceSelection, Number
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Picture = Literal["PNG", "JPEG"]

Coverage = Annotated[
    float,
    Field(ge=0.5, le=0.99, description="share of faces whose age should lie in their interval"),
    AfterValidator(lambda value: round(value, 2)),
]


class Uncertainty(StrEnum):
    """Where the spread of an answer comes from."""

    ENSEMBLE = "ensemble"
    MC_DROPOUT = "mc-dropout"


class HeadOptions(BaseModel):
    """Query of every route that asks the heads."""

    model_config = ConfigDict(extra="forbid")

    coverage: Coverage = 0.9
    uncertainty: Uncertainty = Field(
        Uncertainty.ENSEMBLE, description="mean over the bank's members, or Monte-Carlo dropout (slower)"
    )


class FaceOptions(FaceSelection, HeadOptions):
    """Query of `POST /age-gender`."""

    embeddings: bool = Field(False, description="answer each face's embedding too; it is biometric data")

    @property
    def selection(self) -> FaceSelection:
        return FaceSelection(**{name: getattr(self, name) for name in FaceSelection.model_fields})


class ImagesRequest(BaseModel):
    """JSON with pictures in it, for clients that cannot send multipart."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1, description="each an image file in base64")


class EmbeddingsRequest(BaseModel):
    """The body of `POST /age-gender/embeddings`."""

    model_config = ConfigDict(extra="forbid")

    space: str = Field(description="the id of the space that the embeddings live in", examples=["human-2"])
    embeddings: list[list[Number]] = Field(description="points on the unit sphere, one a face")
