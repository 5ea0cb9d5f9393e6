"""Detected faces as the services exchange them (JSON), and the geometry of their landmarks.

Landmarks are left eye, right eye, nose, left and right mouth corner as seen in the upright image, in pixels;
y points down.
"""

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from agegender.errors import Problem
from agegender.spaces import Space

Points = Sequence[Sequence[float]]

# Shares of the box's shorter side.
_OUTSIDE_BOX = 0.25  # a landmark of a turned head may lie a little outside a tight box
_MIN_SPAN, _MAX_SPAN = 0.15, 1.0  # from the middle of the eyes to the middle of the mouth
# Shares of the distance from the eyes to the mouth, along the line between them.
_NOSE_ABOVE, _NOSE_BELOW = -0.1, 1.1

WhichFaces = Literal["found", "found-or-whole", "whole"]
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


class _NumbersOrFloat32:
    """Accept float32 in little-endian bytes instead of numbers, and keep it as an array.

    A list of Python floats takes eight times the memory, and a hundred times as long to create.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        numbers = handler.generate_schema(list[Number])
        as_list = core_schema.plain_serializer_function_ser_schema(cls._listed, return_schema=numbers)
        return core_schema.no_info_wrap_validator_function(cls._validated, numbers, serialization=as_list)

    @staticmethod
    def _listed(value: Sequence[float]) -> list[float]:
        return value.tolist() if isinstance(value, array) else list(value)

    @staticmethod
    def _validated(value: Any, handler: ValidatorFunctionWrapHandler) -> Sequence[float]:
        if isinstance(value, bytes):
            value = array("f", value)
            if sys.byteorder == "big":
                value.byteswap()
        if not isinstance(value, array):
            numbers: list[float] = handler(value)
            return numbers
        if not np.isfinite(value).all():
            raise ValueError("numbers must be finite")
        return value


# Numbers as JSON has them, or an array of float32 from `agegender_service.packed_faces`.
Embedding = Annotated[Sequence[float], _NumbersOrFloat32]


class FaceGeometry(BaseModel):
    """The position of a face, in pixels of the image as sent with its EXIF orientation applied."""

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
        None, description="probability that something covers a part of the face, such as a mask or a hand"
    )
    border: bool = Field(
        False,
        description="the face was found only with a border added around the image: it fills the image or is "
        "cut off by its edges",
    )
    whole: bool = Field(
        False,
        description="the image was taken as one face (option `faces`): `bbox` is the image, and "
        "`det_score` is 0 if no face was found in it",
    )


class Face(FaceGeometry):
    embedding: Embedding = Field(description="a point on the unit sphere of the space")


class ImageFaces(BaseModel):
    """The faces of one image, largest first."""

    width: int = Field(description="pixels, EXIF orientation applied")
    height: int
    rotation: Rotation = 0
    faces: list[Face]
    faces_found: int = Field(0, description="faces detected in the image, including those not returned")
    truncated: bool = Field(
        False, description="whether smaller faces are omitted because of a limit on faces per image"
    )

    @model_validator(mode="after")
    def _count_faces(self) -> Self:
        """Count the returned faces if the embedder reports no count."""
        self.faces_found = max(self.faces_found, sum(not face.whole for face in self.faces))
        return self

    @property
    def ok(self) -> bool:
        """Return True: the image was processed. `ImageProblem.ok` is False."""
        return True

    @property
    def upright_size(self) -> tuple[int, int]:
        """Return width and height of the image turned by `rotation`, in pixels."""
        return (self.height, self.width) if self.rotation in (90, 270) else (self.width, self.height)

    def upright(self, face: FaceGeometry) -> FaceGeometry:
        """Return a face with its coordinates in the image turned by `rotation`."""
        if not self.rotation:
            return face
        turn = (self.rotation, self.width, self.height)
        moved = {"bbox": turned_box(face.bbox, *turn), "landmarks": turned_points(face.landmarks, *turn)}
        return face.model_copy(update=moved)


class FaceSelection(BaseModel):
    """Select faces of an image; by default all. Only selected faces are embedded."""

    model_config = ConfigDict(extra="forbid")

    faces: WhichFaces = Field(
        "found",
        description="`found`: the faces found in the image; `found-or-whole`: if none is found, the whole "
        "image as one face; `whole`: always the whole image as one face, for images that are cropped "
        "already. `min_det_score` and `min_face` do not omit a whole image",
    )
    max_faces: int | None = Field(
        None,
        ge=1,
        description="faces per image, the largest first; the embedder's own limit applies too "
        "(EMBEDDER_MAX_FACES, 100)",
    )
    min_det_score: float = Field(0, ge=0, le=1, description="omit faces with a lower detection score")
    min_face: float = Field(
        0, ge=0, description="omit faces whose box has a side shorter than this, in pixels"
    )

    def accepts(self, bbox: Sequence[float], det_score: float) -> bool:
        """Return whether a face is selected, apart from `max_faces`."""
        x1, y1, x2, y2 = bbox
        return det_score >= self.min_det_score and min(x2 - x1, y2 - y1) >= self.min_face

    def takes_whole(self, faces_found: int) -> bool:
        """Return whether an image in which so many faces are found is taken as one face."""
        return self.faces == "whole" or (self.faces == "found-or-whole" and faces_found == 0)

    def apply(self, image: ImageFaces) -> ImageFaces:
        """Return the image with only the selected faces.

        Raises ``invalid-request`` 422 if the image should be one face, and its faces are those found in it.
        """
        if self.takes_whole(image.faces_found):
            if len(image.faces) == 1 and image.faces[0].whole:
                return image
            raise Problem(
                "invalid-request",
                422,
                f"faces: {self.faces!r} is not available with this embedding container. Update it, or omit "
                "the option.",
            )
        passing = [face for face in image.faces if self.accepts(face.bbox, face.det_score)]
        kept = passing[: self.max_faces]
        if len(kept) == len(image.faces):
            return image
        truncated = image.truncated or len(kept) < len(passing)
        return image.model_copy(update={"faces": kept, "truncated": truncated})

    @property
    def parameters(self) -> dict[str, str]:
        """Return the query parameters of a request, without defaults."""
        return {name: str(value) for name, value in self.model_dump(exclude_defaults=True).items()}


EVERY_FACE = FaceSelection()
_UNIT_TOLERANCE = 0.01


class ImageProblem(BaseModel):
    """Problem of one image, as an RFC 9457 problem document."""

    problem: dict[str, object]

    @property
    def ok(self) -> bool:
        """Return False: the image was not processed; `problem` states why."""
        return False

    @property
    def faces(self) -> list[Any]:
        """Return no faces."""
        return []


class FacesAnswer(BaseModel):
    """Response of `POST /faces`: one entry per image, in the order sent.

    The entry of an image is its faces or its problem, also if the request contains only one image.
    """

    space: Space
    images: list[ImageFaces | ImageProblem]


def check_embeddings(images: Iterable[ImageFaces], space: Space) -> None:
    """Raise `ValueError` unless each embedding has the space's dimension and length 1."""
    for image in images:
        for face in image.faces:
            if len(face.embedding) != space.dimension:
                raise ValueError(f"an embedding has {len(face.embedding)} numbers, not those of {space}")
            if abs(float(np.linalg.norm(face.embedding)) - 1) > _UNIT_TOLERANCE:
                raise ValueError("an embedding is not on the unit sphere")


def eye_roll(landmarks: Points) -> float:
    """Return the angle of the line from the left to the right eye, degrees clockwise, -180 to 180."""
    (left_x, left_y), (right_x, right_y) = landmarks[0], landmarks[1]
    return math.degrees(math.atan2(right_y - left_y, right_x - left_x))


def plausible(landmarks: Points, bbox: Sequence[float]) -> bool:
    """Return whether five landmarks [5, 2] can be those of the face in the box x1, y1, x2, y2.

    The check does not depend on the roll of the face. It fails if a landmark is not finite or lies outside
    the box, the mouth is not below the eyes, the nose is not between eyes and mouth, the mouth corners are
    exchanged, or the face is too small or too large for its box.
    """
    if not all(math.isfinite(value) for point in (*landmarks, bbox) for value in point):
        return False
    x1, y1, x2, y2 = bbox
    side = min(x2 - x1, y2 - y1)
    if side <= 0:
        return False
    margin = _OUTSIDE_BOX * side
    if not all(x1 - margin <= x <= x2 + margin and y1 - margin <= y <= y2 + margin for x, y in landmarks):
        return False
    left, right, nose, mouth_left, mouth_right = landmarks
    across = (right[0] - left[0], right[1] - left[1])
    eyes = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    down = (
        (mouth_left[0] + mouth_right[0]) / 2 - eyes[0],
        (mouth_left[1] + mouth_right[1]) / 2 - eyes[1],
    )
    span = math.hypot(*down)
    if not _MIN_SPAN * side <= span <= _MAX_SPAN * side:
        return False
    mouth = (mouth_right[0] - mouth_left[0], mouth_right[1] - mouth_left[1])
    nose_at = ((nose[0] - eyes[0]) * down[0] + (nose[1] - eyes[1]) * down[1]) / span**2
    return (
        across[0] * down[1] - across[1] * down[0] > 0
        and across[0] * mouth[0] + across[1] * mouth[1] > 0
        and _NOSE_ABOVE <= nose_at <= _NOSE_BELOW
    )


def turned_points(points: Points, rotation: int, width: float, height: float) -> list[tuple[float, float]]:
    """Return points of an image of width x height pixels after a clockwise turn by 0, 90, 180 or 270 degrees.

    To turn points back, turn them by 360 - rotation in the turned image, whose sides are exchanged at 90 and
    270.
    """
    if rotation % 90:
        raise ValueError(f"A rotation is 0, 90, 180 or 270 degrees, received {rotation}.")
    quarters = rotation // 90 % 4
    if quarters == 0:
        return [(x, y) for x, y in points]
    if quarters == 1:
        return [(height - y, x) for x, y in points]
    if quarters == 2:
        return [(width - x, height - y) for x, y in points]
    return [(y, width - x) for x, y in points]


def turned_box(
    bbox: Sequence[float], rotation: int, width: float, height: float
) -> tuple[float, float, float, float]:
    """Return a box x1, y1, x2, y2 after a clockwise turn of its image (see `turned_points`)."""
    (xa, ya), (xb, yb) = turned_points([bbox[:2], bbox[2:]], rotation, width, height)
    return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)


def parse_answer(content: bytes) -> FacesAnswer:
    """Parse the JSON of a response. Raises `ValueError`."""
    try:
        return FacesAnswer.model_validate_json(content)
    except ValidationError as error:
        raise ValueError("it is not a list of faces") from error


def checked_answer(answer: FacesAnswer, count: int, selection: FaceSelection) -> FacesAnswer:
    """Check the response to `count` images, and apply the selection.

    Raises `ValueError` unless it has one entry per image and embeddings of its space.
    """
    if len(answer.images) != count:
        raise ValueError(f"it has {len(answer.images)} entries for {count} images")
    check_embeddings((image for image in answer.images if isinstance(image, ImageFaces)), answer.space)
    images = [_selected(image, selection) for image in answer.images]
    return FacesAnswer.model_construct(space=answer.space, images=images)


def _selected(image: ImageFaces | ImageProblem, selection: FaceSelection) -> ImageFaces | ImageProblem:
    """Apply the selection again: a service that ignores it returns every face."""
    try:
        return selection.apply(image) if isinstance(image, ImageFaces) else image
    except Problem as problem:
        return ImageProblem(problem=problem.document())
