"""A detected face as it crosses the seams between embedder, proxy and predictor (JSON)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from agegender.landmarks import turned_box, turned_points
from agegender.spaces import Space

Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]  # text is no number
Point = tuple[Number, Number]
Rotation = Annotated[
    Literal[0, 90, 180, 270],
    Field(
        description="clockwise turn in degrees that makes the image upright, found from its faces after the "
        "EXIF orientation was applied; 0 if none is needed. All coordinates are those of the image before "
        "this turn",
    ),
]


class FaceGeometry(BaseModel):
    """Where a face is. Coordinates are pixels of the image as sent, with its EXIF orientation applied."""

    model_config = ConfigDict(extra="forbid")

    bbox: tuple[Number, Number, Number, Number] = Field(
        description="x1, y1, x2, y2", examples=[[98.0, 61.5, 187.2, 180.0]]
    )
    det_score: Number = Field(description="the detector's confidence, 0 to 1", examples=[0.87])
    landmarks: list[Point] = Field(
        description="left eye, right eye, nose, left and right mouth corner, as seen in the upright image "
        "(turned by `rotation`)",
        min_length=5,
        max_length=5,
    )
    sharpness: Number | None = Field(
        None,
        description="variance of the Laplacian of the aligned grey face crop (112 pixels); low means blurred",
    )
    brightness: Number | None = Field(
        None,
        description="95th percentile of the luminance of the aligned face crop (112 pixels), 0 to 255; "
        "low means dark",
    )
    clipped: Number | None = Field(
        None, description="share of white pixels in the aligned face crop (112 pixels), 0 to 1"
    )
    covered: Number | None = Field(
        None, description="how likely something covers a part of the face, such as a mask or a hand, 0 to 1"
    )
    border: bool = Field(
        False,
        description="the face was found only with a border added around the image: it fills the image or is "
        "cut off by its edges",
    )


class Face(FaceGeometry):
    embedding: list[Number] = Field(description="a point on the unit sphere of the space")


class ImageFaces(BaseModel):
    """The faces of one image, largest first."""

    width: int = Field(description="pixels, EXIF orientation applied")
    height: int
    rotation: Rotation = 0
    faces: list[Face]

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the image turned by `rotation`, in pixels."""
        return (self.height, self.width) if self.rotation in (90, 270) else (self.width, self.height)

    def upright(self, face: FaceGeometry) -> FaceGeometry:
        """Return where a face is in the image turned by `rotation`, with all else as it is."""
        if not self.rotation:
            return face
        turn = (self.rotation, self.width, self.height)
        moved = {"bbox": turned_box(face.bbox, *turn), "landmarks": turned_points(face.landmarks, *turn)}
        return face.model_copy(update=moved)


class ImageProblem(BaseModel):
    """Why one of several images got no answer: an RFC 9457 problem document."""

    problem: dict[str, object]


class FacesAnswer(BaseModel):
    """The answer of `POST /faces`: one entry an image, in the order sent.

    An error of the only image of a request is the request's error; with several images it stands in
    the image's place, so that one bad file does not spoil the others.
    """

    space: Space
    images: list[ImageFaces | ImageProblem]
