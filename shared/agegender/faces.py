"""A detected face as it crosses the seams between embedder, proxy and predictor (JSON)."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    faces_found: int = Field(0, description="faces detected in the image, the ones left out included")
    truncated: bool = Field(
        False, description="whether smaller faces are left out because of a limit on faces per image"
    )

    @model_validator(mode="after")
    def _count_faces(self) -> Self:
        """An embedder that does not count them found the faces that it answers."""
        self.faces_found = max(self.faces_found, len(self.faces))
        return self

    @property
    def ok(self) -> bool:
        """True: the image could be read. An `ImageProblem` in its place has False."""
        return True

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


class FaceSelection(BaseModel):
    """Which faces of an image are wanted; the default is all. Only these are embedded."""

    model_config = ConfigDict(extra="forbid")

    max_faces: int | None = Field(
        None,
        ge=1,
        description="faces per image, the largest first; the embedder's own limit applies too "
        "(EMBEDDER_MAX_FACES, 100)",
    )
    min_det_score: float = Field(0, ge=0, le=1, description="leave out what the detector doubts more")
    min_face: float = Field(0, ge=0, description="leave out faces with a box side shorter than this, pixels")

    def accepts(self, bbox: Sequence[float], det_score: float) -> bool:
        """Return whether a face passes; `max_faces` counts those that do."""
        x1, y1, x2, y2 = bbox
        return det_score >= self.min_det_score and min(x2 - x1, y2 - y1) >= self.min_face

    def apply(self, image: ImageFaces) -> ImageFaces:
        """Return the image with the selected faces alone."""
        passing = [face for face in image.faces if self.accepts(face.bbox, face.det_score)]
        kept = passing[: self.max_faces]
        if len(kept) == len(image.faces):
            return image
        truncated = image.truncated or len(kept) < len(passing)
        return image.model_copy(update={"faces": kept, "truncated": truncated})

    @property
    def parameters(self) -> dict[str, str]:
        """Return the query of a request for these faces, without what is default."""
        return {name: str(value) for name, value in self.model_dump(exclude_defaults=True).items()}


EVERY_FACE = FaceSelection()
_UNIT_TOLERANCE = 0.01


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


def check_embeddings(images: Iterable[ImageFaces], space: Space) -> None:
    """Raise `ValueError` unless each embedding has the space's dimension and length 1."""
    for image in images:
        for face in image.faces:
            if len(face.embedding) != space.dimension:
                raise ValueError(f"an embedding has {len(face.embedding)} numbers, not those of {space}")
            if abs(math.hypot(*face.embedding) - 1) > _UNIT_TOLERANCE:
                raise ValueError("an embedding is not on the unit sphere")
