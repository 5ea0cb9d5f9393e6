"""`POST /compreface/api/v1/detection/detect`: CompreFace's detection, so that its SDKs work unchanged."""

import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

from agegender.errors import Problem
from agegender.predictions import AgeGenderAnswer, FaceAnswer, ImageAnswer
from agegender_service.forms import is_form
from agegender_service.inputs import body_schema, query_parameters, unknown_input
from agegender_service.problems import WireFormat
from agegender_service.request_body import BodyReader, Received, body_in_openapi
from fastapi import APIRouter, Depends, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from predictor.prediction import ServicesIn, raise_problem_of_lone_image
from predictor.prediction_request import MAX_VALUES, FaceOptions, SentImages, decoded, merged, parsed

PREFIX: Final = "/compreface"
_JSON = "application/json"
_FILE = "file"  # form field and JSON member of the image
_PLUGINS = ("age", "gender", "landmarks", "calculator")
_NO_FACE = "No face is found in the given image"  # clients compare it
_SHOWN = 50  # characters of a name in a message
_OTHER_BYTES = 64 * 1024  # of a request, besides the image

# CompreFace's codes by problem. Those of other problems follow from the status.
_CODES: Final = {
    "key-needed": 20,
    "key-unknown": 20,
    "unreadable-image": 21,
    "damaged-image": 21,
    "empty-image": 5,
    "no-image": 33,
    "no-face": 28,
}
_INVALID, _FAILED, _OTHER = 26, 41, 0


def _known_plugins(names: str) -> str:
    for name in filter(None, names.split(",")):
        if name.strip() not in _PLUGINS:
            raise ValueError(f"{name.strip()[:_SHOWN]!r} is not available; use {', '.join(_PLUGINS)}")
    return names


class DetectOptions(BaseModel):
    """Query parameters."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(0, ge=0, description="faces to answer, the largest first; 0 for all")
    det_prob_threshold: float = Field(0, ge=0, le=1, description="omit faces with a lower detection score")
    face_plugins: Annotated[str, AfterValidator(_known_plugins)] = Field(
        "", description=f"{', '.join(_PLUGINS)}, separated by commas", examples=["age,gender,landmarks"]
    )
    status: bool = Field(False, description="return `execution_time` and `plugins_versions`")
    prediction_count: int = Field(0, description="ignored; the SDK's example sends it")

    @property
    def plugins(self) -> frozenset[str]:
        return frozenset(name.strip() for name in self.face_plugins.split(","))

    @property
    def face_options(self) -> FaceOptions:
        return FaceOptions(
            max_faces=self.limit or None,
            min_det_score=self.det_prob_threshold,
            embeddings="calculator" in self.plugins,
        )


class DetectRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: str = Field(description="image file in base64")


class Box(BaseModel):
    """Pixels of the image, EXIF orientation applied."""

    probability: float = Field(description="the detector's confidence")
    x_max: int
    y_max: int
    x_min: int
    y_min: int


class Age(BaseModel):
    """The prediction interval in years, rounded outwards."""

    probability: float = Field(description="the interval's coverage")
    high: int
    low: int


class Gender(BaseModel):
    probability: float
    value: Literal["female", "male"]


class ExecutionTime(BaseModel):
    """Milliseconds of the request, the same for each face; absent for stages that the cache saved."""

    age: float | None = None
    gender: float | None = None
    detector: float | None = None
    calculator: float | None = None


class DetectedFace(BaseModel):
    box: Box
    age: Age | None = None
    gender: Gender | None = None
    landmarks: list[tuple[int, int]] | None = Field(
        None, description="left eye, right eye, nose, left and right mouth corner"
    )
    embedding: list[float] | None = Field(None, description="plugin `calculator`; it is biometric data")
    execution_time: ExecutionTime | None = None


class DetectResponse(BaseModel):
    result: list[DetectedFace]
    plugins_versions: dict[str, str] | None = Field(
        None, description="embedding space, and versions of the heads in it"
    )


@dataclass(frozen=True)
class _Sent:
    image: bytes
    options: DetectOptions


router = APIRouter(prefix=PREFIX, tags=["other systems"])


def error_response(problem: Problem) -> Response:
    """Render a problem as CompreFace does. Invalid input has the status 400."""
    status = 400 if problem.status == 422 else problem.status
    code = _CODES.get(problem.slug)
    if code is None:
        code = _FAILED if status >= 500 else _INVALID if status == 400 else _OTHER
    content = json.dumps({"message": problem.detail, "code": code})
    return Response(content, status, problem.headers, _JSON)


WIRE_FORMAT = WireFormat(PREFIX, error_response)


async def _detect_request(request: Request, services: ServicesIn) -> AsyncIterator[Received[_Sent]]:
    # Without the option `limit`, the SDK for JavaScript begins each option with a question mark.
    query = request.url.query.replace("?", "&")
    options = merged(DetectOptions, parse_qsl(query, keep_blank_values=True))

    async def read(reader: BodyReader) -> _Sent:
        return _Sent(await _image(reader), options)

    max_bytes = services.bodies.limits.max_image_bytes * 4 // 3 + _OTHER_BYTES
    async with services.bodies.received(request, read, max_bytes=max_bytes) as received:
        yield received


async def _image(reader: BodyReader) -> bytes:
    headers = reader.request.headers
    if is_form(headers):
        form = await reader.form()
        for name in (name for name, _ in (*form.files, *form.fields) if name != _FILE):
            raise unknown_input("form field", name, [_FILE])
        if not form.files:
            raise _no_image()
        return form.files[0][1]
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
        raise _no_image()
    body = await reader.whole()
    sent = await run_in_threadpool(parsed, DetectRequest, body, MAX_VALUES)
    if not sent.file:
        raise _no_image()
    image = await run_in_threadpool(decoded, sent.file)
    if isinstance(image, Problem):
        raise image
    return image


def _no_image() -> Problem:
    return Problem(
        "no-image",
        400,
        f"The request contains no image; send it in the multipart field {_FILE!r}, or as JSON "
        f'{{"{_FILE}": base64}}.',
    )


DetectionIn = Annotated[Received[_Sent], Depends(_detect_request, scope="function")]

_BINARY = {"type": "string", "format": "binary"}
_FORM_SCHEMA = {"type": "object", "required": [_FILE], "properties": {_FILE: _BINARY}}


def _request_in_openapi() -> dict[str, Any]:
    described = body_in_openapi(
        {_JSON: {"schema": body_schema(DetectRequest)}, "multipart/form-data": {"schema": _FORM_SCHEMA}}
    )
    return {**described, "parameters": [*described["parameters"], *query_parameters(DetectOptions)]}


_ERROR = {
    "description": "an error of CompreFace",
    "content": {
        _JSON: {
            "schema": {
                "type": "object",
                "required": ["message", "code"],
                "properties": {"message": {"type": "string"}, "code": {"type": "integer"}},
            },
            "example": {"message": _NO_FACE, "code": _CODES["no-face"]},
        }
    },
}


@router.post(
    "/api/v1/detection/detect",
    summary="Face detection of CompreFace",
    response_model=DetectResponse,
    responses={"default": _ERROR},
    openapi_extra=_request_in_openapi(),
)
async def detect(received: DetectionIn, services: ServicesIn) -> Response:
    """Append `/compreface` to the SDK's address. An image without a face is an error (400, code 28)."""
    sent = received.body
    images = SentImages([sent.image], sent.options.face_options)
    answer = await services.predictor.images(images, received.deadline, received.stopwatch)
    raise_problem_of_lone_image(answer)
    return Response(await run_in_threadpool(_encoded, answer, sent.options), media_type=_JSON)


def _encoded(answer: AgeGenderAnswer, options: DetectOptions) -> bytes:
    (image,) = answer.images
    assert isinstance(image, ImageAnswer)
    if not image.faces:
        raise Problem("no-face", 400, _NO_FACE)
    plugins = options.plugins
    times = _execution_time(answer.timings, plugins) if options.status else None
    response = DetectResponse(
        result=[_detected(face, plugins, times) for face in image.faces],
        plugins_versions=_versions(answer, plugins) if options.status else None,
    )
    return response.model_dump_json(exclude_none=True).encode()


def _detected(face: FaceAnswer, plugins: frozenset[str], times: ExecutionTime | None) -> DetectedFace:
    x1, y1, x2, y2 = map(round, face.bbox)
    low, high = face.age.interval
    label: Literal["female", "male"] = "female" if face.gender.label == "female" else "male"
    return DetectedFace(
        box=Box(probability=face.det_score, x_max=x2, y_max=y2, x_min=x1, y_min=y1),
        age=Age(probability=face.age.coverage, high=math.ceil(high), low=math.floor(low))
        if "age" in plugins
        else None,
        gender=Gender(probability=face.gender.probability[label], value=label)
        if "gender" in plugins
        else None,
        landmarks=[(round(x), round(y)) for x, y in face.landmarks] if "landmarks" in plugins else None,
        embedding=face.embedding,
        execution_time=times,
    )


def _execution_time(timings: dict[str, float], plugins: frozenset[str]) -> ExecutionTime:
    heads = timings.get("heads")
    return ExecutionTime(
        age=heads if "age" in plugins else None,
        gender=heads if "gender" in plugins else None,
        detector=timings.get("detect"),
        calculator=timings.get("embed") if "calculator" in plugins else None,
    )


def _versions(answer: AgeGenderAnswer, plugins: frozenset[str]) -> dict[str, str]:
    space = answer.space.id
    versions = {"detector": space, "calculator": space}
    for task, version in answer.models.items():
        versions[task] = f"{space}.{version}"
    return {name: version for name, version in versions.items() if name in {"detector", *plugins}}
