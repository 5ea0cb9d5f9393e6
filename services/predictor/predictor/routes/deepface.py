"""`POST /deepface/analyze`: the analysis of deepface's server, so that its clients work unchanged."""

import json
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

from agegender.errors import Problem
from agegender.faces import WhichFaces
from agegender.predictions import FaceAnswer, ImageAnswer
from agegender_service.forms import is_form
from agegender_service.inputs import body_schema
from agegender_service.problems import WireFormat
from agegender_service.request_body import BodyReader, Received, body_in_openapi
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from predictor.prediction import ServicesIn
from predictor.prediction_request import MAX_VALUES, FaceOptions, NullsAreAbsent, decoded, parsed, validated

PREFIX: Final = "/deepface"
_JSON = "application/json"
_IMAGE = "img"  # form field and JSON member
_ACTIONS = ("age", "gender")
_NOT_ESTIMATED = ("emotion", "race")
_WHOLE_IMAGE = "skip"  # the detector that takes the whole image as the face
_NO_FACE = "Face could not be detected."  # clients compare it
_SHOWN = 50  # characters of a name in a message
_MAX_FIELDS = 16
_OTHER_BYTES = 64 * 1024  # of a request, besides the image

# Problems of taking the image from the request, which deepface's server reports in another member.
_OF_THE_IMAGE = frozenset({"no-image", "bad-base64", "url-not-supported", "bad-multipart", "too-many-images"})


def _listed(actions: object) -> object:
    """Return the names in text such as `age,gender` or `["age", "gender"]`, as forms have them."""
    return re.findall(r"[^\s,()\[\]'\"]+", actions) if isinstance(actions, str) else actions


class AnalyzeOptions(NullsAreAbsent):
    """Other members are ignored, as by deepface's server."""

    model_config = ConfigDict(extra="ignore")

    actions: Annotated[list[str] | None, BeforeValidator(_listed)] = Field(
        None,
        description=f"{' and '.join(_ACTIONS)}, the default",
        examples=[["age", "gender"]],
        max_length=16,
    )
    enforce_detection: bool = Field(
        True, description="an image without a face is an error; if false, the whole image is one face"
    )
    detector_backend: str = Field(
        "opencv", description=f"ignored, except for {_WHOLE_IMAGE!r}: the whole image is one face"
    )
    align: bool = Field(True, description="ignored; faces are aligned")
    anti_spoofing: Literal[False] = Field(False, description="not available")


class AnalyzeRequest(AnalyzeOptions):
    img: str = Field(description="image file in base64 or as a data URL")


class Region(BaseModel):
    """Pixels of the image, EXIF orientation applied. Eyes are the person's left and right."""

    x: int
    y: int
    w: int
    h: int
    left_eye: tuple[int, int]
    right_eye: tuple[int, int]


class GenderShares(BaseModel):
    """Per cent, calibrated."""

    Woman: float
    Man: float


class AnalyzedFace(BaseModel):
    age: int | None = Field(None, description="the mean, in years")
    gender: GenderShares | None = None
    dominant_gender: Literal["Woman", "Man"] | None = None
    region: Region
    face_confidence: float = Field(description="the detector's, 0 to 1; 0 for the whole image")


class AnalyzeResponse(BaseModel):
    results: list[AnalyzedFace] = Field(description="the largest face first")


@dataclass(frozen=True)
class _Sent:
    image: bytes
    actions: frozenset[str]
    options: FaceOptions


router = APIRouter(prefix=PREFIX, tags=["other systems"])


def error_response(problem: Problem) -> Response:
    """Render a problem as deepface's server does. Invalid input has the status 400."""
    status = 400 if problem.status == 422 else problem.status
    if status in (401, 403):
        body = {"message": problem.detail}
    elif problem.slug in _OF_THE_IMAGE:
        body = {"exception": problem.detail}
    else:
        body = {"error": f"Exception while analyzing: {problem.detail}"}
    return Response(json.dumps(body), status, problem.headers, _JSON)


WIRE_FORMAT = WireFormat(PREFIX, error_response)


async def _analyze_request(request: Request, services: ServicesIn) -> AsyncIterator[Received[_Sent]]:
    # Percent-encoding makes three characters of each + and / of base64.
    max_bytes = services.bodies.limits.max_image_bytes * 3 // 2 + _OTHER_BYTES
    async with services.bodies.received(request, _read, max_bytes=max_bytes) as received:
        yield received


AnalyzeIn = Annotated[Received[_Sent], Depends(_analyze_request, scope="function")]


async def _read(reader: BodyReader) -> _Sent:
    if is_form(reader.request.headers):
        form = await reader.form()
        files = [content for name, content in form.files if name == _IMAGE]
        if form.files and not files:
            raise _no_image(f"The form has a file in the field {form.files[0][0][:_SHOWN]!r}. ")
        if files:
            return _sent(files[0], validated(AnalyzeOptions, dict(form.fields)))
        return await run_in_threadpool(_of_fields, form.fields)
    body = await reader.whole()
    return await run_in_threadpool(_of_text, body)


def _of_text(body: bytes) -> _Sent:
    """Parse JSON or a URL-encoded form. The documentation's `curl -d` declares one as the other."""
    if body[:64].lstrip().startswith(b"{"):
        return _of_request(parsed(AnalyzeRequest, body, MAX_VALUES))
    try:
        fields = parse_qsl(body.decode(), max_num_fields=_MAX_FIELDS)
    except ValueError:  # more fields, or not UTF-8
        fields = []
    return _of_fields(fields)


def _of_fields(fields: Iterable[tuple[str, str]]) -> _Sent:
    values = dict(fields)
    if not values.get(_IMAGE):
        raise _no_image()
    return _of_request(validated(AnalyzeRequest, values))


def _of_request(sent: AnalyzeRequest) -> _Sent:
    if not sent.img:
        raise _no_image()
    image = decoded(sent.img)
    if isinstance(image, Problem):
        raise image
    return _sent(image, sent)


def _sent(image: bytes, options: AnalyzeOptions) -> _Sent:
    """Check the options. Raises ``invalid-request`` 422 for those that are not available."""
    actions = list(_ACTIONS) if options.actions is None else options.actions
    for name in actions or [""]:
        if name not in _ACTIONS:
            reason = "estimated" if name in _NOT_ESTIMATED else "an action"
            raise _invalid(f"actions: {name[:_SHOWN]!r} is not {reason}; use {', '.join(_ACTIONS)}.")
    if options.detector_backend == _WHOLE_IMAGE:
        faces: WhichFaces = "whole"
    else:
        faces = "found" if options.enforce_detection else "found-or-whole"
    return _Sent(image, frozenset(actions), FaceOptions(faces=faces))


def _invalid(detail: str) -> Problem:
    return Problem("invalid-request", 422, detail)


def _no_image(reason: str = "") -> Problem:
    return Problem(
        "no-image",
        400,
        f"{reason}The request contains no image; send it as {_IMAGE!r}: base64 in JSON, or a file in a form.",
    )


def _request_in_openapi() -> dict[str, Any]:
    schema, options = body_schema(AnalyzeRequest), body_schema(AnalyzeOptions)
    form = {**options["properties"], _IMAGE: {"type": "string", "format": "binary"}}
    return body_in_openapi(
        {
            _JSON: {"schema": schema},
            "multipart/form-data": {"schema": {"type": "object", "required": [_IMAGE], "properties": form}},
            "application/x-www-form-urlencoded": {"schema": schema},
        }
    )


_ERROR = {
    "description": "an error of deepface's server",
    "content": {
        _JSON: {
            "schema": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("error", "exception", "message")},
                "minProperties": 1,
            },
            "example": {"error": f"Exception while analyzing: {_NO_FACE}"},
        }
    },
}


@router.post(
    "/analyze",
    summary="Analysis of deepface's server",
    response_model=AnalyzeResponse,
    responses={"default": _ERROR},
    openapi_extra=_request_in_openapi(),
)
async def analyze(received: AnalyzeIn, services: ServicesIn) -> Response:
    """Append `/deepface` to the server's address. Only `age` and `gender` are estimated."""
    sent = received.body
    image = await services.predictor.image(sent.image, sent.options, received.deadline, received.stopwatch)
    return Response(await run_in_threadpool(_encoded, image, sent), media_type=_JSON)


def _encoded(image: ImageAnswer, sent: _Sent) -> bytes:
    if not image.faces:
        advice = "Send an image in which a face is visible, or set enforce_detection to false."
        raise Problem("no-face", 400, f"{_NO_FACE} {advice}")
    response = AnalyzeResponse(results=[_analyzed(face, image, sent.actions) for face in image.faces])
    return response.model_dump_json(exclude_none=True).encode()


def _analyzed(face: FaceAnswer, image: ImageAnswer, actions: frozenset[str]) -> AnalyzedFace:
    x1, y1 = (max(0, int(value)) for value in face.bbox[:2])
    x2, y2 = min(image.width, round(face.bbox[2])), min(image.height, round(face.bbox[3]))
    right_eye, left_eye = ((round(x), round(y)) for x, y in face.landmarks[:2])
    probability = face.gender.probability
    gendered = "gender" in actions
    return AnalyzedFace(
        age=round(face.age.mean) if "age" in actions else None,
        gender=GenderShares(Woman=100 * probability["female"], Man=100 * probability["male"])
        if gendered
        else None,
        dominant_gender=("Woman" if face.gender.label == "female" else "Man") if gendered else None,
        region=Region(x=x1, y=y1, w=x2 - x1, h=y2 - y1, left_eye=left_eye, right_eye=right_eye),
        face_confidence=0 if face.whole else round(face.det_score, 2),
    )
