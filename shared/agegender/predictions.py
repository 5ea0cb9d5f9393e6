"""Answers of the predictor (JSON): age and gender per face with uncertainty, and how they are derived."""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AliasChoices, BaseModel, Field, computed_field

from agegender.faces import ImageProblem, Point, Rotation
from agegender.heads.calibration import ConformalIntervals, mean_years
from agegender.heads.head import Task
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES, group_probabilities
from agegender.spaces import Space

Array = npt.NDArray[np.floating]
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
    "undetected",
]
UNFAMILIAR = 0.05  # familiarity below which the command line and the page mention it
RequestId = Annotated[
    str | None, Field(description="repeated in every log line about this request", examples=["trace-7"])
]


class Quality(BaseModel):
    """Reliability of the answer for a face: 1 for a good portrait, near 0 for a guess."""

    score: float = Field(ge=0, le=1, description="product of the factors of all measures", examples=[0.92])
    interval_scale: float = Field(
        1,
        ge=1,
        description="factor on the width of the age interval because of the quality",
        examples=[1.02],
        validation_alias=AliasChoices("interval_scale", "widening"),  # releases up to 0.1
    )
    reasons: list[QualityReason] = Field(
        description="what lowers the score, strongest first", examples=[["small"]]
    )
    pixels: float = Field(
        description="shorter side of the box, in pixels; of the face within it if the image was taken `whole`"
    )
    yaw: float = Field(
        description="rotation of the head to its side in degrees, from the landmarks; 0 is frontal"
    )
    roll: float = Field(
        description="clockwise tilt of the line between the eyes, degrees, in the image turned by `rotation`"
    )
    sharpness: float | None = Field(None, description="variance of the Laplacian of the aligned face")
    missing: float | None = Field(
        None, description="largest share of the face, from eyebrows to chin, beyond one edge of the image"
    )
    covered: float | None = Field(
        None, description="probability that something covers a part of the face, 0 to 1"
    )
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


class AgeAnswer(BaseModel):
    """The age of one face."""

    mean: float = Field(description="expected apparent age, years", examples=[31.4])
    interval: tuple[float, float] = Field(
        description="years; contains the age with the stated coverage", examples=[[24.9, 38.2]]
    )
    coverage: float = Field(description="share of faces whose age is within their interval", examples=[0.9])
    group: str = Field(description="the most probable of Adience's age groups", examples=["25-32"])
    groups: dict[str, float] = Field(description="probability of each age group")
    entropy: float = Field(
        description="of the distribution over groups, in nats; 0 = certain, 2.08 = uniform"
    )


class GenderAnswer(BaseModel):
    """The gender of one face."""

    label: str = Field(description="the more probable presentation", examples=["female"])
    probability: dict[str, float] = Field(examples=[{"female": 0.97, "male": 0.03}])
    entropy: float = Field(description="in nats; 0 = certain, 0.69 = uniform", examples=[0.13])


class FaceEstimate(BaseModel):
    """Age and gender of one face."""

    age: AgeAnswer
    gender: GenderAnswer
    familiarity: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how like the faces that the age head was trained on: the share of these that are at "
        "least as unusual. Below 0.5 the age interval is wider. absent if the head has no statistics, "
        "as those of releases up to 0.1",
        examples=[0.61],
    )


class FaceAnswer(FaceEstimate):
    """Age and gender of one detected face, and where it is."""

    bbox: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2", examples=[[98, 61.5, 187, 180]]
    )
    det_score: float = Field(description="the detector's confidence, 0 to 1", examples=[0.87])
    landmarks: list[Point] = Field(description="left eye, right eye, nose, left and right mouth corner")
    whole: bool = Field(
        False,
        description="the image was taken as one face (option `faces`): `bbox` is the image, and "
        "`det_score` is 0 if no face was found in it",
    )
    quality: Quality
    embedding: list[float] | None = Field(None, description="only if requested; it is biometric data")


class ImageAnswer(BaseModel):
    """The faces of one image, largest first. Coordinates are pixels, EXIF orientation applied."""

    width: int = Field(examples=[1280])
    height: int = Field(examples=[886])
    rotation: Rotation = 0
    faces: list[FaceAnswer]
    faces_found: int = Field(0, description="faces detected in the image, including those not returned")
    truncated: bool = Field(
        False, description="whether smaller faces are omitted because of a limit on faces per image"
    )

    @property
    def ok(self) -> bool:
        """Return True: the image was processed. `ImageProblem.ok` is False."""
        return True


class AgeGenderAnswer(BaseModel):
    """One entry per image, in the order sent; an image with a problem has that problem as its entry."""

    space: Space
    models: dict[Task, str] = Field(
        description="versions of the heads used", examples=[{"age": "v1", "gender": "v1"}]
    )
    images: list[ImageAnswer | ImageProblem]
    timings: dict[str, float] = Field(
        description="milliseconds per stage: reading the request (read); the proxy's answer (proxy), which "
        "includes check, cache, decode, detect, embed and transfer; waiting in all services (queue); heads; "
        "writing the answer (answer); and all of it (total)"
    )
    request_id: RequestId = None


class EmbeddingsAnswer(BaseModel):
    """One estimate per embedding, in the order sent."""

    space: Space
    models: dict[Task, str]
    faces: list[FaceEstimate]
    timings: dict[str, float] = Field(description="milliseconds per stage: read, queue, heads, answer, total")
    request_id: RequestId = None


class HeadStatus(BaseModel):
    """The head of one task and space."""

    task: Task
    space: str = Field(examples=["human-3"])
    version: str | None = Field(description="version that is served; null if none can be")
    source: Literal["promoted", "shipped"] | None = Field(
        description="promoted by the trainer, or shipped with the program"
    )
    previous: str | None = Field(description="version that a rollback would serve")
    problem: str | None = Field(None, description="why the promoted head is not served")
    card: dict[str, object] | None = Field(None, description="data, protocol, metrics, licence, limits")


class Models(BaseModel):
    """Heads by task and space. An invalid head is reported here, and the previous one stays in service."""

    models: list[HeadStatus]
    warnings: list[str]


def entropy(probabilities: Array) -> Array:
    """Return the Shannon entropy in nats over the last axis."""
    return np.asarray(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=-1))


def age_answers(year_probabilities: Array, conformal: ConformalIntervals, coverage: float) -> list[AgeAnswer]:
    """Return one answer per face from calibrated distributions over years [faces, 101]."""
    if not len(year_probabilities):
        return []
    groups = group_probabilities(year_probabilities)
    low, high = conformal.intervals(year_probabilities, coverage)
    means, entropies = mean_years(year_probabilities), entropy(groups)
    return [
        AgeAnswer(
            mean=round(float(means[face]), 2),
            interval=(round(float(low[face]), 1), round(float(high[face]), 1)),
            coverage=coverage,
            group=AGE_GROUP_NAMES[int(groups[face].argmax())],
            groups=dict(zip(AGE_GROUP_NAMES, _rounded(groups[face]), strict=True)),
            entropy=round(float(entropies[face]), 4),
        )
        for face in range(len(year_probabilities))
    ]


def gender_answers(probabilities: Array) -> list[GenderAnswer]:
    """Return one answer per face from calibrated probabilities [faces, 2] of female and male."""
    entropies = entropy(probabilities)
    return [
        GenderAnswer(
            label=GENDER_NAMES[int(probabilities[face].argmax())],
            probability=dict(zip(GENDER_NAMES, _rounded(probabilities[face]), strict=True)),
            entropy=round(float(entropies[face]), 4),
        )
        for face in range(len(probabilities))
    ]


def _rounded(probabilities: Array) -> list[float]:
    return [round(float(value), 5) for value in probabilities]
