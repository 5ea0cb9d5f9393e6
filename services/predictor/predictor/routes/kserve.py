"""`/v2/models/age-gender`: the KServe V2 protocol, for clients of Triton and other inference servers."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from agegender import __version__
from agegender.errors import Problem
from agegender_service.inputs import body_schema
from agegender_service.problems import WireFormat
from agegender_service.request_body import BodyReader, Received, body_in_openapi
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from predictor.kserve_tensors import (
    HEADER_LENGTH,
    INPUT,
    MODEL,
    OUTPUTS,
    InferRequest,
    InferResponse,
    SentTensors,
    read_tensors,
    write_tensors,
)
from predictor.prediction import ServicesIn

PREFIX: Final = "/v2"
_JSON_BYTES = 1024 * 1024  # of a request, besides the images


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


router = APIRouter(prefix=PREFIX, tags=["other systems"])


def error_response(problem: Problem) -> Response:
    """Render a problem as the protocol's error object."""
    return JSONResponse({"error": problem.detail}, problem.status, problem.headers)


WIRE_FORMAT: Final = WireFormat(PREFIX, error_response)

ERROR_IN_OPENAPI: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "error object of the protocol",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}},
                },
                "example": {"error": "The image file is damaged or cut short; send the whole file."},
            }
        },
    }
}


async def _read(reader: BodyReader) -> SentTensors:
    encoding = reader.request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Problem(
            "encoding-not-supported",
            415,
            f"The body has the Content-Encoding {encoding[:50]!r}. Send it without; images are compressed.",
        )
    body = await reader.whole()
    return await run_in_threadpool(
        read_tensors, body, reader.request.headers.get(HEADER_LENGTH), reader.limits.max_images
    )


async def _inference(request: Request, services: ServicesIn) -> AsyncIterator[Received[SentTensors]]:
    max_bytes = services.bodies.limits.max_request_bytes * 4 // 3 + _JSON_BYTES
    async with services.bodies.received(
        request, _read, max_bytes=max_bytes, images=lambda sent: sent.images
    ) as received:
        yield received


InferenceIn = Annotated[Received[SentTensors], Depends(_inference, scope="function")]


def _request_in_openapi() -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    described = body_in_openapi(
        {
            "application/json": {"schema": body_schema(InferRequest)},
            "application/octet-stream": {"schema": binary},
        }
    )
    length = {
        "name": HEADER_LENGTH,
        "in": "header",
        "schema": {"type": "integer", "minimum": 0},
        "description": "bytes of the JSON, if binary data follows it",
    }
    return {**described, "parameters": [*described["parameters"], length]}


@router.get("", summary="Server metadata of the KServe V2 protocol", responses=ERROR_IN_OPENAPI)
async def server() -> ServerMetadata:
    return ServerMetadata(name="age-gender", version=__version__, extensions=["binary_tensor_data"])


@router.get(f"/models/{MODEL}", summary="Inputs and outputs of the model", responses=ERROR_IN_OPENAPI)
async def model() -> ModelMetadata:
    outputs = [
        TensorMetadata(name=output.name, datatype=output.datatype, shape=output.shape)
        for output in OUTPUTS.values()
    ]
    return ModelMetadata(
        name=MODEL,
        versions=[],
        platform="age-gender",
        inputs=[TensorMetadata(name=INPUT, datatype="BYTES", shape=[-1])],
        outputs=outputs,
    )


@router.get(
    f"/models/{MODEL}/ready",
    summary="Check that the model can predict; 503 with the reason if not",
    responses=ERROR_IN_OPENAPI,
)
async def model_ready(services: ServicesIn) -> dict[str, str | bool]:
    await services.require_ready()
    return {"name": MODEL, "ready": True}


@router.post(
    f"/models/{MODEL}/infer",
    summary="Age and gender of each face, as tensors of the KServe V2 protocol",
    response_model=InferResponse,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        **ERROR_IN_OPENAPI,
    },
    openapi_extra=_request_in_openapi(),
)
async def infer(received: InferenceIn, services: ServicesIn) -> Response:
    """Send image files as a BYTES tensor `image`: in base64 as JSON, or as binary data after the JSON.

    Each row of the outputs is one face; `image_index` has the image that it is in.
    """
    answer = await services.predictor.images(received.body, received.deadline, received.stopwatch)
    content, json_length = await run_in_threadpool(write_tensors, answer, received.body)
    if json_length is None:
        return Response(content, media_type="application/json")
    headers = {HEADER_LENGTH: str(json_length)}
    return Response(content, media_type="application/octet-stream", headers=headers)
