"""`POST /rekognition`: `DetectFaces` of Amazon Rekognition, so that AWS SDKs work unchanged."""

import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from agegender.errors import Problem
from agegender.predictions import FaceAnswer, ImageAnswer
from agegender_service.guards import caller_of
from agegender_service.inputs import body_schema
from agegender_service.observability import request_id
from agegender_service.problems import WireFormat
from agegender_service.request_body import BodyReader, Received, body_in_openapi
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal
from starlette.concurrency import run_in_threadpool

from predictor.aws_signatures import AwsSignatures
from predictor.prediction import ServicesIn
from predictor.prediction_request import MAX_VALUES, FaceOptions, decoded, parsed
from predictor.quality import head_angles, head_pitch, sharpness_score

PREFIX: Final = "/rekognition"
_MEDIA_TYPE = "application/x-amz-json-1.1"
_TARGET = "X-Amz-Target"
_DETECT_FACES = "RekognitionService.DetectFaces"
_JSON_BYTES = 64 * 1024  # of a request, besides the image
_SHOWN = 50  # characters of a name in a message
_LANDMARKS = ("eyeLeft", "eyeRight", "nose", "mouthLeft", "mouthRight")
_ATTRIBUTES = ("DEFAULT", "ALL", "AGE_RANGE", "GENDER")
_DEFAULT_FACES = FaceOptions()

# The exception classes of the SDKs by problem. Those of other problems follow from the status.
_EXCEPTIONS: Final = {
    "key-needed": "MissingAuthenticationTokenException",
    "key-unknown": "UnrecognizedClientException",
    "scope-missing": "AccessDeniedException",
    "unknown-access-key": "UnrecognizedClientException",
    "bad-signature": "InvalidSignatureException",
    "clock-skew": "InvalidSignatureException",
    "unknown-operation": "UnknownOperationException",
    "bucket-not-supported": "InvalidS3ObjectException",
    "image-too-large": "ImageTooLargeException",
    "too-many-pixels": "ImageTooLargeException",
    "body-too-large": "ImageTooLargeException",
    "unreadable-image": "InvalidImageFormatException",
    "damaged-image": "InvalidImageFormatException",
}


class _Model(BaseModel):
    """Members are named as in Amazon's API. SDKs drop unknown ones, so there are none of our own."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, extra="forbid")


class ImageToDetect(_Model):
    bytes: str | None = Field(None, description="image file in base64")
    s3_object: dict[str, Any] | None = Field(None, alias="S3Object", description="not supported")


class DetectFacesRequest(_Model):
    image: ImageToDetect
    attributes: list[str] | None = Field(
        None, description=f"{', '.join(_ATTRIBUTES)}; the default is DEFAULT, which has no age and gender"
    )


class BoundingBox(_Model):
    """Shares of the image's width and height."""

    width: float
    height: float
    left: float
    top: float


class AgeRange(_Model):
    """The prediction interval in years, rounded outwards."""

    low: int
    high: int


class Gender(_Model):
    value: Literal["Male", "Female"]
    confidence: float = Field(description="per cent")


class Landmark(_Model):
    """Shares of the image's width and height."""

    type: Literal["eyeLeft", "eyeRight", "nose", "mouthLeft", "mouthRight"]
    x: float
    y: float


class Pose(_Model):
    """Degrees, estimated from the landmarks."""

    roll: float
    yaw: float
    pitch: float


class ImageQuality(_Model):
    """From 0 to 100."""

    brightness: float | None = None
    sharpness: float | None = None


class FaceDetail(_Model):
    bounding_box: BoundingBox
    age_range: AgeRange | None = None
    gender: Gender | None = None
    landmarks: list[Landmark]
    pose: Pose
    quality: ImageQuality
    confidence: float = Field(description="the detector's, per cent")


class DetectFacesResponse(_Model):
    face_details: list[FaceDetail]
    orientation_correction: Literal["ROTATE_0", "ROTATE_90", "ROTATE_180", "ROTATE_270"] = Field(
        description="clockwise turn that makes the image upright"
    )


@dataclass(frozen=True)
class _Sent:
    image: bytes
    attributes: frozenset[str]


router = APIRouter(prefix=PREFIX, tags=["other systems"])


def wire_format(signatures: AwsSignatures) -> WireFormat:
    """Return how the SDKs authenticate and expect errors."""
    return WireFormat(PREFIX, error_response, signatures.key_of)


def error_response(problem: Problem) -> Response:
    """Render a problem so that an SDK raises the exception class that `__type` names."""
    name, status = _EXCEPTIONS.get(problem.slug), problem.status if problem.status in (404, 405) else 400
    if name is None and problem.status == 429:
        name = "ThrottlingException"  # with the status 400, because boto3 retries no other
    elif name is None and problem.status >= 499:
        name, status = "InternalServerError", max(500, problem.status)
    content = {"__type": name or "InvalidParameterException", "message": problem.detail}
    return _response(json.dumps(content).encode(), status, problem.headers)


async def _detect_faces(request: Request, services: ServicesIn) -> AsyncIterator[Received[_Sent]]:
    _require_detect_faces(request.headers.get(_TARGET))

    async def read(reader: BodyReader) -> _Sent:
        body = await reader.whole()
        return await run_in_threadpool(_parsed, request, body, services.aws_signatures)

    max_bytes = services.bodies.limits.max_image_bytes * 4 // 3 + _JSON_BYTES
    async with services.bodies.received(request, read, max_bytes=max_bytes) as received:
        yield received


DetectFacesIn = Annotated[Received[_Sent], Depends(_detect_faces, scope="function")]


def _request_in_openapi() -> dict[str, Any]:
    described = body_in_openapi({_MEDIA_TYPE: {"schema": body_schema(DetectFacesRequest)}})
    target = {
        "name": _TARGET,
        "in": "header",
        "required": True,
        "schema": {"type": "string", "enum": [_DETECT_FACES]},
        "description": "the operation",
        "example": _DETECT_FACES,
    }
    return {**described, "parameters": [*described["parameters"], target]}


_ERROR = {
    "description": "an exception of the SDKs",
    "content": {
        _MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": ["__type", "message"],
                "properties": {"__type": {"type": "string"}, "message": {"type": "string"}},
            },
            "example": {"__type": "InvalidImageFormatException", "message": "The image file is damaged."},
        }
    },
}


class AmazonJson(JSONResponse):
    media_type = _MEDIA_TYPE


@router.post("/", include_in_schema=False)  # the AWS SDK for JavaScript appends a slash
@router.post(
    "",
    summary="DetectFaces of Amazon Rekognition",
    response_class=AmazonJson,
    response_model=DetectFacesResponse,
    responses={"default": _ERROR},
    openapi_extra=_request_in_openapi(),
)
async def detect_faces(received: DetectFacesIn, services: ServicesIn) -> Response:
    """Point an AWS SDK here with `endpoint_url`. If keys are required, its signature is verified."""
    sent = received.body
    image = await services.predictor.image(sent.image, _DEFAULT_FACES, received.deadline, received.stopwatch)
    return _response(await run_in_threadpool(_encoded, image, sent.attributes))


def _require_detect_faces(target: str | None) -> None:
    if target == _DETECT_FACES:
        return
    received = "none" if target is None else repr(target[:_SHOWN])
    raise Problem(
        "unknown-operation",
        400,
        f"The operation in the header {_TARGET} is {received}; only {_DETECT_FACES} is available.",
    )


def _parsed(request: Request, body: bytes, signatures: AwsSignatures) -> _Sent:
    if not caller_of(request.scope).verified:
        signatures.verify(request.scope, body)
    sent = parsed(DetectFacesRequest, body, MAX_VALUES)
    if sent.image.s3_object is not None:
        raise Problem(
            "bucket-not-supported", 400, "Image.S3Object is not supported; send the image as Image.Bytes."
        )
    if not sent.image.bytes:
        raise Problem("no-image", 400, "The request contains no image; send it as Image.Bytes.")
    attributes = frozenset(sent.attributes or ["DEFAULT"])
    if unknown := sorted(attributes.difference(_ATTRIBUTES)):
        raise Problem(
            "invalid-request",
            422,
            f"The attribute {unknown[0][:_SHOWN]!r} is not available; use {', '.join(_ATTRIBUTES)}.",
        )
    image = decoded(sent.image.bytes)
    if isinstance(image, Problem):
        raise image
    return _Sent(image, attributes)


def _response(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    identified = {"x-amzn-RequestId": request_id() or "", **(headers or {})}
    return Response(content, status, identified, _MEDIA_TYPE)


def _encoded(image: ImageAnswer, attributes: frozenset[str]) -> bytes:
    answer = DetectFacesResponse(
        face_details=[_detail(face, image, attributes) for face in image.faces],
        orientation_correction=f"ROTATE_{image.rotation}",
    )
    return answer.model_dump_json(by_alias=True, exclude_none=True).encode()


def _detail(face: FaceAnswer, image: ImageAnswer, attributes: frozenset[str]) -> FaceDetail:
    x1, y1, x2, y2 = face.bbox
    low, high = face.age.interval
    yaw, roll = head_angles(face.landmarks)
    female, quality = face.gender.probability["female"], face.quality
    return FaceDetail(
        bounding_box=BoundingBox(
            width=(x2 - x1) / image.width,
            height=(y2 - y1) / image.height,
            left=x1 / image.width,
            top=y1 / image.height,
        ),
        age_range=AgeRange(low=math.floor(low), high=math.ceil(high))
        if attributes & {"ALL", "AGE_RANGE"}
        else None,
        gender=Gender(
            value="Female" if face.gender.label == "female" else "Male",
            confidence=100 * max(female, 1 - female),
        )
        if attributes & {"ALL", "GENDER"}
        else None,
        landmarks=[
            Landmark(type=name, x=x / image.width, y=y / image.height)
            for name, (x, y) in zip(_LANDMARKS, face.landmarks, strict=True)
        ],
        pose=Pose(roll=roll, yaw=yaw, pitch=head_pitch(face.landmarks)),
        quality=ImageQuality(
            brightness=None if quality.brightness is None else quality.brightness / 2.55,
            sharpness=None if quality.sharpness is None else 100 * sharpness_score(quality.sharpness),
        ),
        confidence=100 * face.det_score,
    )
