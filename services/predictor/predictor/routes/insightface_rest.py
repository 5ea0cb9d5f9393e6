"""`/insightface-rest`: InsightFace-REST's extraction and information, so that its clients work unchanged."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NoReturn

import agegender
import msgpack
from agegender.errors import Problem
from agegender.faces import ImageProblem
from agegender.predictions import AgeGenderAnswer, FaceAnswer, ImageAnswer
from agegender_service.forms import too_many_images
from agegender_service.inputs import body_schema, preferred_media_type
from agegender_service.problems import WireFormat
from agegender_service.request_body import BodyReader, Received, body_in_openapi
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from predictor.prediction import ServicesIn
from predictor.prediction_request import (
    MAX_VALUES,
    FaceOptions,
    NullsAreAbsent,
    SentImages,
    decoded,
    parsed,
    validated,
)

PREFIX: Final = "/insightface-rest"
_JSON = "application/json"
_MSGPACK = "application/x-msgpack"
_MSGPACK_TYPES = frozenset({_MSGPACK, "application/msgpack"})  # of requests; clients send the second
_MAX_CONTAINERS = 64  # maps and lists in a MessagePack request
_MAX_MEMBERS = 1024  # of one of them
_THRESHOLD = 0.6  # InsightFace-REST's default


class Images(BaseModel):
    model_config = ConfigDict(extra="ignore")

    data: list[str | bytes] | None = Field(
        None, description="image files, in base64; in MessagePack also as they are"
    )
    urls: list[str] | None = Field(None, description="not supported")


class ExtractRequest(NullsAreAbsent):
    """Other members are ignored, as by InsightFace-REST: `max_size`, `api_ver`."""

    model_config = ConfigDict(extra="ignore")

    images: Images
    threshold: float = Field(_THRESHOLD, ge=0, le=1, description="omit faces with a lower detection score")
    limit_faces: int = Field(0, ge=0, description="faces per image, the largest first; 0 for all")
    min_face_size: int = Field(0, ge=0, description="leave out smaller faces, pixels")
    extract_ga: bool = Field(False, description="return age and gender")
    extract_embedding: bool = Field(True, description="return `vec`, which is biometric data")
    return_landmarks: bool = False
    return_face_data: Literal[False] = Field(False, description="face crops are not available")
    embed_only: bool = Field(False, description="each image is one face, whatever the detector finds")
    detect_masks: Literal[False] = Field(False, description="not available")
    verbose_timings: bool = False
    msgpack: bool = Field(False, description=f"answer in MessagePack, like the header `Accept: {_MSGPACK}`")

    @property
    def face_options(self) -> FaceOptions:
        return FaceOptions(
            faces="whole" if self.embed_only else "found",
            max_faces=self.limit_faces or None,
            min_det_score=self.threshold,
            min_face=self.min_face_size,
            embeddings=self.extract_embedding,
        )


class ExtractedFace(BaseModel):
    """Null for what was not requested, and for what is not estimated."""

    num_det: int = Field(description="number of the face in the image, from 0")
    prob: float = Field(description="the detector's confidence; 1 with `embed_only`")
    bbox: tuple[int, int, int, int] = Field(description="x1, y1, x2, y2 in pixels, EXIF orientation applied")
    size: int = Field(description="width of the box")
    landmarks: list[tuple[int, int]] | None = None
    vec: list[float] | None = Field(None, description="of unit length, in this system's space")
    norm: float | None = Field(None, description="always null")
    gender: Literal[0, 1] | None = Field(None, description="0 for female, 1 for male")
    age: int | None = Field(None, description="the mean, in years")
    mask: bool | None = Field(None, description="always null")
    mask_probs: dict[str, float] | None = Field(None, description="always null")
    facedata: str | None = Field(None, description="always null")


class ExtractedImage(BaseModel):
    status: Literal["ok", "failed"]
    took_ms: float = Field(description="the request's time divided by its images")
    faces: list[ExtractedFace]
    traceback: str | None = Field(None, description="why the image has no answer")


class ExtractResponse(BaseModel):
    took: dict[str, float] = Field(description="milliseconds")
    data: list[ExtractedImage] = Field(description="in the order of the images")


@dataclass(frozen=True)
class _Sent:
    images: list[bytes | Problem]
    request: ExtractRequest


router = APIRouter(prefix=PREFIX, tags=["other systems"])


def error_response(problem: Problem) -> Response:
    """Render a problem as InsightFace-REST does."""
    return Response(json.dumps({"detail": problem.detail}), problem.status, problem.headers, _JSON)


WIRE_FORMAT = WireFormat(PREFIX, error_response)


async def _extract_request(request: Request, services: ServicesIn) -> AsyncIterator[Received[_Sent]]:
    max_bytes = services.bodies.limits.max_request_bytes * 4 // 3
    async with services.bodies.received(
        request, _read, max_bytes=max_bytes, images=lambda sent: sent.images
    ) as received:
        yield received


ExtractionIn = Annotated[Received[_Sent], Depends(_extract_request, scope="function")]


async def _read(reader: BodyReader) -> _Sent:
    media_type = reader.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await reader.whole()
    parse = _parsed_msgpack if media_type in _MSGPACK_TYPES else _parsed_json
    sent = await run_in_threadpool(parse, body)
    images = sent.images.data or []
    if sent.images.urls and not images:
        raise Problem(
            "url-not-supported",
            422,
            "images.urls is not supported, neither URLs nor paths of the server; send images.data.",
        )
    if not images:
        raise Problem("no-image", 400, "The request contains no image; send base64 in images.data.")
    if len(images) > reader.limits.max_images:
        raise too_many_images(reader.limits.max_images)
    return _Sent(await run_in_threadpool(lambda: [_decoded(image) for image in images]), sent)


def _decoded(image: bytes | str) -> bytes | Problem:
    return decoded(image) if isinstance(image, str) else image


def _parsed_json(body: bytes) -> ExtractRequest:
    return parsed(ExtractRequest, body, MAX_VALUES)


def _parsed_msgpack(body: bytes) -> ExtractRequest:
    """Parse MessagePack with few containers, because an empty one takes a byte here and 64 in memory."""
    containers = 0

    def count(container: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > _MAX_CONTAINERS:
            raise ValueError(f"more than {_MAX_CONTAINERS} maps and lists")
        return container

    try:
        content = msgpack.unpackb(
            body,
            object_hook=count,
            list_hook=count,
            ext_hook=_no_extension,
            max_array_len=_MAX_MEMBERS,
            max_map_len=_MAX_MEMBERS,
        )
    except ValueError as error:
        raise Problem(
            "invalid-request", 422, f"The body is not MessagePack of a request: {str(error)[:200]}."
        ) from error
    return validated(ExtractRequest, content)


def _no_extension(code: int, content: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


_ERROR = {
    "description": "an error of InsightFace-REST",
    "content": {
        _JSON: {
            "schema": {
                "type": "object",
                "required": ["detail"],
                "properties": {"detail": {"type": "string"}},
            },
            "example": {"detail": "The request contains no image; send base64 in images.data."},
        }
    },
}


@router.post(
    "/extract",
    summary="Extraction of InsightFace-REST",
    response_model=ExtractResponse,
    responses={
        200: {"content": {_MSGPACK: {"schema": {"type": "string", "format": "binary"}}}},
        "default": _ERROR,
    },
    openapi_extra=body_in_openapi({_JSON: {"schema": body_schema(ExtractRequest)}}),
)
async def extract(request: Request, received: ExtractionIn, services: ServicesIn) -> Response:
    """Append `/insightface-rest` to the server's address. Send `extract_ga` for age and gender.

    An image that has a problem has the status `failed`, with the reason as its `traceback`.
    """
    sent = received.body
    images = SentImages(sent.images, sent.request.face_options)
    answer = await services.predictor.images(images, received.deadline, received.stopwatch)
    accepts_msgpack = preferred_media_type(request, (_JSON, _MSGPACK)) == _MSGPACK
    media_type = _MSGPACK if sent.request.msgpack or accepts_msgpack else _JSON
    content = await run_in_threadpool(_encoded, answer, sent.request, media_type)
    return Response(content, media_type=media_type, headers={"Vary": "Accept"})


class InfoModels(BaseModel):
    """Configuration of the models. Null for what this system does not have."""

    inference_backend: Literal["onnx"] = "onnx"
    det_name: str = Field(description="id of the space, which names the pack", examples=["human-3"])
    rec_name: str = Field(description="the same", examples=["human-3"])
    ga_name: str = Field(description="version of the head that estimates the age")
    mask_detector: None = None
    max_size: None = Field(None, description="null: images are not resized to one size")
    rec_batch_size: int = Field(description="faces estimated together, at most")
    det_batch_size: Literal[1] = 1
    force_fp16: Literal[False] = False
    triton_uri: None = None


class InfoDefaults(BaseModel):
    """Values of options that a request omits."""

    return_face_data: bool
    return_landmarks: bool
    extract_embedding: bool
    extract_ga: bool
    detect_masks: bool
    det_thresh: float


class InfoResponse(BaseModel):
    version: str = Field(description="of this system")
    tensorrt_version: None = None
    models: InfoModels
    defaults: InfoDefaults


@router.get("/info", summary="Information of InsightFace-REST", responses={"default": _ERROR})
async def info(services: ServicesIn) -> InfoResponse:
    """Return what clients of InsightFace-REST print about a server."""
    space = (await services.proxy.info()).space
    fields = ExtractRequest.model_fields
    defaults = {name: fields[name].default for name in InfoDefaults.model_fields if name in fields}
    return InfoResponse(
        version=agegender.__version__,
        models=InfoModels(
            det_name=space.id,
            rec_name=space.id,
            ga_name=services.registry.heads(space).age.manifest.version,
            rec_batch_size=services.settings.max_batch_faces,
        ),
        defaults=InfoDefaults(**defaults, det_thresh=_THRESHOLD),
    )


def _encoded(answer: AgeGenderAnswer, request: ExtractRequest, media_type: str) -> bytes:
    times = answer.timings
    took = {"total_ms": times["total"]}
    if request.verbose_timings:
        took |= {"read_imgs_ms": times["read"], "embed_all_ms": times["total"] - times["read"]}
    share = times["total"] / len(answer.images)
    response = ExtractResponse(took=took, data=[_extracted(image, request, share) for image in answer.images])
    if media_type == _JSON:
        return response.model_dump_json().encode()
    packed: bytes = msgpack.packb(response.model_dump(), use_single_float=True)
    return packed


def _extracted(image: ImageAnswer | ImageProblem, request: ExtractRequest, took_ms: float) -> ExtractedImage:
    if isinstance(image, ImageProblem):
        reason = str(image.problem.get("detail", ""))
        return ExtractedImage(status="failed", took_ms=took_ms, faces=[], traceback=reason)
    faces = [_face(number, face, request) for number, face in enumerate(image.faces)]
    return ExtractedImage(status="ok", took_ms=took_ms, faces=faces)


def _face(number: int, face: FaceAnswer, request: ExtractRequest) -> ExtractedFace:
    x1, y1, x2, y2 = map(int, face.bbox)
    return ExtractedFace(
        num_det=number,
        prob=1 if face.whole else face.det_score,
        bbox=(x1, y1, x2, y2),
        size=x2 - x1,
        landmarks=[(int(x), int(y)) for x, y in face.landmarks] if request.return_landmarks else None,
        vec=face.embedding,
        gender=(0 if face.gender.label == "female" else 1) if request.extract_ga else None,
        age=round(face.age.mean) if request.extract_ga else None,
    )
