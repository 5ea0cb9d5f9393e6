"""A detected face as it crosses the seams between embedder, proxy and predictor (JSON)."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from agegender.spaces import Space

Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]  # text is no number
Point = tuple[Number, Number]


class FaceGeometry(BaseModel):
    """Where a face is. Coordinates are pixels of the upright image (EXIF orientation applied)."""

    model_config = ConfigDict(extra="forbid")

    bbox: tuple[Number, Number, Number, Number] = Field(
        description="x1, y1, x2, y2", examples=[[98.0, 61.5, 187.2, 180.0]]
    )
    det_score: Number = Field(description="the detector's confidence, 0 to 1", examples=[0.87])
    landmarks: list[Point] = Field(
        description="left eye, right eye, nose, left and right mouth corner, as seen in the image",
        min_length=5,
        max_length=5,
    )
    sharpness: Number | None = Field(
        None,
        description="variance of the Laplacian of the aligned grey face crop (112 pixels); low means blurred",
    )


class Face(FaceGeometry):
    embedding: list[Number] = Field(description="a point on the unit sphere of the space")


class ImageFaces(BaseModel):
    """The faces of one image, largest first."""

    width: int = Field(description="of the upright image, pixels")
    height: int
    faces: list[Face]

    @property
    def ok(self) -> bool:
        """True: the image could be read. An `ImageProblem` in its place has False."""
        return True


class ImageProblem(BaseModel):
    """Why one of several images got no answer: an RFC 9457 problem document."""

    problem: dict[str, object]

    @property
    def ok(self) -> bool:
        """False: the image could not be read; `problem` says why."""
        return False

    @property
    def faces(self) -> list[Any]:
        """None of the image's faces is known."""
        return []


class FacesAnswer(BaseModel):
    """The answer of `POST /faces`: one entry an image, in the order sent.

    An error of the only image of a request is the request's error; with several images it stands in
    the image's place, so that one bad file does not spoil the others.
    """

    space: Space
    images: list[ImageFaces | ImageProblem]
