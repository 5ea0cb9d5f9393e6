"""What the predictor is asked and answers over HTTP."""

from enum import StrEnum
from typing import Annotated, Literal

from agegender.faces import ImageProblem, Number, Point
from agegender.heads.answers import AgeAnswer, GenderAnswer
from agegender.heads.head import Task
from agegender.spaces import Space
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from predictor.quality import Quality

Coverage = Annotated[
    float,
    Field(
        ge=0.5, le=0.99, description="share of faces whose age should lie in their interval, in hundredths"
    ),
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


class FaceOptions(HeadOptions):
    """Query of `POST /age-gender`."""

    max_faces: int | None = Field(None, ge=1, description="of each image, the largest first")
    min_det_score: float = Field(0, ge=0, le=1, description="leave out what the detector doubts more")
    min_face: float = Field(
        0, ge=0, description="leave out faces whose box has a side shorter than this, pixels"
    )
    embeddings: bool = Field(False, description="answer each face's embedding too; it is biometric data")


class FaceAnswer(BaseModel):
    bbox: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2", examples=[[98, 61.5, 187, 180]]
    )
    det_score: float = Field(description="the detector's confidence, 0 to 1", examples=[0.87])
    landmarks: list[Point] = Field(description="left eye, right eye, nose, left and right mouth corner")
    quality: Quality
    age: AgeAnswer
    gender: GenderAnswer
    embedding: list[float] | None = None


class ImageAnswer(BaseModel):
    """The faces of one image, largest first. Coordinates are pixels of the upright image."""

    width: int = Field(examples=[1280])
    height: int = Field(examples=[886])
    faces: list[FaceAnswer]


class AgeGenderAnswer(BaseModel):
    """One entry an image, in the order sent; a problem stands in the place of an image that has one."""

    space: Space
    models: dict[Task, str] = Field(
        description="versions of the heads that answered", examples=[{"age": "v1", "gender": "v1"}]
    )
    images: list[ImageAnswer | ImageProblem]
    timings: dict[str, float] = Field(
        description="milliseconds: read, proxy, queue, heads, total, and what the proxy tells of its own",
        examples=[{"read": 0.4, "proxy": 61.2, "queue": 0.1, "heads": 0.5, "total": 63.0}],
    )


class EmbeddingsRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    space: str = Field(description="the id of the space that the embeddings live in", examples=["human-1"])
    embeddings: list[list[Number]] = Field(description="points on the unit sphere, one a face")


class FaceEstimate(BaseModel):
    age: AgeAnswer
    gender: GenderAnswer


class EmbeddingsAnswer(BaseModel):
    space: Space
    models: dict[Task, str]
    faces: list[FaceEstimate]
    timings: dict[str, float]


class ImagesRequest(BaseModel):
    """JSON with pictures in it, for clients that cannot send multipart."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1, description="each an image file in base64")


Picture = Literal["PNG", "JPEG"]
