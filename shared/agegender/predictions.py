"""What the predictor answers over HTTP: one age and one gender a face, with how sure they are (JSON)."""

from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, Field, computed_field

from agegender.faces import ImageProblem, Point, Rotation
from agegender.heads.answers import AgeAnswer, GenderAnswer
from agegender.heads.head import Task
from agegender.spaces import Space

QualityReason = Literal[
    "small",
    "blurred",
    "turned",
    "tilted",
    "doubtful",
    "cut",
    "tight",
    "covered",
    "dark",
    "overexposed",
]
RequestId = Annotated[
    str | None, Field(description="stands in every log line about this request", examples=["trace-7"])
]


class Quality(BaseModel):
    """How far a face may be trusted: 1 for a good portrait, towards 0 for a guess."""

    score: float = Field(ge=0, le=1, description="product of what each measure leaves", examples=[0.92])
    interval_scale: float = Field(
        1,
        ge=1,
        description="factor on the width of the age interval because of the quality",
        examples=[1.02],
        validation_alias=AliasChoices("interval_scale", "widening"),  # releases up to 0.1
    )
    reasons: list[QualityReason] = Field(
        description="what lowers the score, the worst first", examples=[["small"]]
    )
    pixels: float = Field(description="shorter side of the box")
    yaw: float = Field(description="degrees turned from the camera, from the landmarks; 0 is frontal")
    roll: float = Field(
        description="degrees that the eyes' line is tilted, clockwise, in the image turned by `rotation`"
    )
    sharpness: float | None = Field(None, description="variance of the Laplacian of the aligned face")
    missing: float | None = Field(
        None, description="largest share of the face, from eyebrows to chin, beyond one edge of the image"
    )
    covered: float | None = Field(None, description="how likely something covers a part of the face, 0 to 1")
    brightness: float | None = Field(
        None, description="95th percentile of the luminance of the aligned face, 0 to 255"
    )
    clipped: float | None = Field(None, description="share of white pixels in the aligned face, 0 to 1")

    @computed_field(  # type: ignore[prop-decorator]
        description="former name of `interval_scale`", json_schema_extra={"deprecated": True}
    )
    @property
    def widening(self) -> float:
        """The former name of `interval_scale`."""
        return self.interval_scale


class FaceEstimate(BaseModel):
    age: AgeAnswer
    gender: GenderAnswer


class FaceAnswer(FaceEstimate):
    bbox: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2", examples=[[98, 61.5, 187, 180]]
    )
    det_score: float = Field(description="the detector's confidence, 0 to 1", examples=[0.87])
    landmarks: list[Point] = Field(description="left eye, right eye, nose, left and right mouth corner")
    quality: Quality
    embedding: list[float] | None = Field(None, description="where asked for; it is biometric data")


class ImageAnswer(BaseModel):
    """The faces of one image, largest first. Coordinates are pixels, EXIF orientation applied."""

    width: int = Field(examples=[1280])
    height: int = Field(examples=[886])
    rotation: Rotation = 0
    faces: list[FaceAnswer]
    faces_found: int = Field(0, description="faces detected in the image, the ones left out included")
    truncated: bool = Field(
        False, description="whether smaller faces are left out because of a limit on faces per image"
    )

    @property
    def ok(self) -> bool:
        """True: the image could be read. An `ImageProblem` in its place has False."""
        return True


class AgeGenderAnswer(BaseModel):
    """One entry an image, in the order sent; a problem stands in the place of an image that has one."""

    space: Space
    models: dict[Task, str] = Field(
        description="versions of the heads that answered", examples=[{"age": "v1", "gender": "v1"}]
    )
    images: list[ImageAnswer | ImageProblem]
    timings: dict[str, float] = Field(
        description="milliseconds by stage: reading the request (read); the proxy's answer (proxy), with "
        "decode, detect and embed in it; waiting, here and there (queue); heads; and all of it (total)"
    )
    request_id: RequestId = None


class EmbeddingsAnswer(BaseModel):
    """One estimate an embedding, in the order sent."""

    space: Space
    models: dict[Task, str]
    faces: list[FaceEstimate]
    timings: dict[str, float] = Field(description="milliseconds by stage: read, queue, heads, total")
    request_id: RequestId = None


class HeadStatus(BaseModel):
    """The head of one task and space."""

    task: Task
    space: str = Field(examples=["human-2"])
    version: str | None = Field(description="that is served; null where none can be")
    source: Literal["promoted", "shipped"] | None = Field(
        description="promoted by the trainer, or shipped with the program"
    )
    previous: str | None = Field(description="the version that a rollback would serve")
    problem: str | None = Field(None, description="why the head that should be served is not")
    card: dict[str, object] | None = Field(None, description="data, protocol, metrics, licence, limits")


class Models(BaseModel):
    """Heads by task and space. A bad head leaves the one before it serving, and says so here."""

    models: list[HeadStatus]
    warnings: list[str]
