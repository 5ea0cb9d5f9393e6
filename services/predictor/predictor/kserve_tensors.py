"""Read requests and write responses of the KServe V2 protocol: JSON, and binary data after it.

Specification: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
with Triton's extension for binary tensors.
"""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from agegender.errors import Problem
from agegender.faces import ImageProblem
from agegender.predictions import AgeGenderAnswer, FaceAnswer, ImageAnswer
from agegender_service.forms import too_many_images
from agegender_service.inputs import unknown_input
from pydantic import BaseModel, ConfigDict, Field

from predictor.prediction_request import MAX_VALUES, FaceOptions, SentImages, decoded, merged, parsed

MODEL: Final = "age-gender"
HEADER_LENGTH: Final = "Inference-Header-Content-Length"
INPUT: Final = "image"
_ELEMENT_LENGTH = struct.Struct("<I")  # precedes each element of a BYTES tensor

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Output:
    """One tensor of the response. Its first dimension counts the faces of all images."""

    name: str
    datatype: Literal["FP32", "INT32"]
    width: int | None = None

    @property
    def shape(self) -> list[int]:
        return [-1] if self.width is None else [-1, self.width]

    @property
    def dtype(self) -> str:
        return {"FP32": "<f4", "INT32": "<i4"}[self.datatype]


OUTPUTS: Final = {
    output.name: output
    for output in (
        Output("bbox", "FP32", 4),
        Output("age", "FP32"),
        Output("age_low", "FP32"),
        Output("age_high", "FP32"),
        Output("p_female", "FP32"),
        Output("image_index", "INT32"),
    )
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InputParameters(_Model):
    binary_data_size: int | None = Field(None, ge=0, description="bytes of this tensor after the JSON")


class InputTensor(_Model):
    name: str = Field(description=f"`{INPUT}`", examples=[INPUT])
    datatype: str = Field(description="`BYTES`", examples=["BYTES"])
    shape: list[Annotated[int, Field(ge=0)]] = Field(description="number of images", max_length=8)
    parameters: InputParameters | None = None
    data: list[Any] | None = Field(None, description="images in base64, unless they follow as binary data")


class OutputParameters(_Model):
    binary_data: bool | None = Field(None, description="send this tensor as binary data")


class RequestedOutput(_Model):
    name: str
    parameters: OutputParameters | None = None


class InferRequest(_Model):
    """Request of `POST /v2/models/age-gender/infer`; binary data may follow it."""

    id: str | None = Field(None, max_length=256)
    parameters: dict[str, Scalar] | None = Field(
        None, description="`binary_data_output`, and the options of `POST /age-gender` except `embeddings`"
    )
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = Field(None, description="default: all")


class OutputTensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float] | None = None


class InferResponse(BaseModel):
    model_name: str
    id: str | None = None
    outputs: list[OutputTensor]


@dataclass(frozen=True)
class SentTensors(SentImages):
    """Images and options, and which outputs are returned as binary data."""

    request_id: str | None
    outputs: dict[str, bool]


def read_tensors(body: bytes, header_length: str | None, max_images: int) -> SentTensors:
    """Read the body of a request.

    header_length : value of the header `HEADER_LENGTH`; None if all is JSON.

    Raises `Problem`: ``bad-tensor`` 400, ``invalid-request`` 422, ``too-many-images`` 413.
    """
    text, binary = _split(body, header_length)
    request = parsed(InferRequest, text, MAX_VALUES)
    images = [*_images(request.inputs, binary, max_images)]
    outputs, parameters = _requested(request), request.parameters or {}
    if "embeddings" in parameters:
        raise unknown_input("parameter", "embeddings", FaceOptions.model_fields.keys() - {"embeddings"})
    named = [(name, value) for name, value in parameters.items() if name != "binary_data_output"]
    options = merged(FaceOptions, (), ("parameter", named))
    return SentTensors(images, options, request.id, outputs)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON and the binary data after it."""
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit()):
        raise _bad_tensor(f"The header {HEADER_LENGTH} is {header_length[:50]!r}, expected a whole number.")
    length = int(header_length[:12])
    if length > len(body):
        raise _bad_tensor(f"{HEADER_LENGTH} is {length}, but the body has only {len(body)} bytes.")
    return body[:length], memoryview(body)[length:]


def _requested(request: InferRequest) -> dict[str, bool]:
    """Return the outputs that a request names, and whether each is returned as binary data."""
    default = (request.parameters or {}).get("binary_data_output", False)
    if not isinstance(default, bool):
        raise Problem("invalid-request", 422, f"binary_data_output is {default!r}, expected true or false.")
    if not request.outputs:
        return dict.fromkeys(OUTPUTS, default)
    requested = {}
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise unknown_input("output", output.name, OUTPUTS)
        given = None if output.parameters is None else output.parameters.binary_data
        requested[output.name] = default if given is None else given
    return requested


def _images(inputs: Sequence[InputTensor], binary: memoryview, limit: int) -> Iterator[bytes | Problem]:
    for tensor in inputs:
        if tensor.name != INPUT:
            raise unknown_input("input", tensor.name, [INPUT])
    if len(inputs) != 1:
        raise _bad_tensor(f"The request has {len(inputs)} inputs, expected one, named {INPUT!r}.")
    (tensor,) = inputs
    if tensor.datatype != "BYTES":
        raise _bad_tensor(
            f"The input's datatype is {tensor.datatype[:50]!r}, expected 'BYTES' (image files)."
        )
    count = math.prod(tensor.shape)
    if count > limit:
        raise too_many_images(limit)
    size = None if tensor.parameters is None else tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise _bad_tensor("The input must have either data or binary_data_size.")
    if tensor.data is not None:
        if binary:
            raise _bad_tensor(f"{len(binary)} bytes follow the JSON, but the input has no binary_data_size.")
        elements: list[bytes | Problem] = [decoded(text) for text in _texts(tensor.data)]
    elif size != len(binary):
        raise _bad_tensor(
            f"binary_data_size is {size}, but {len(binary)} bytes follow the JSON. "
            f"{HEADER_LENGTH} must be the length of the JSON."
        )
    else:
        elements = [*_elements(binary, limit)]
    if len(elements) != count or not elements:
        raise _bad_tensor(f"The shape {tensor.shape} is of {count} images, but {len(elements)} were sent.")
    yield from elements


def _texts(data: list[Any]) -> Iterator[str]:
    """Yield the strings of a tensor, whose rows may be nested or flat."""
    for element in data:
        for text in element if isinstance(element, list) else (element,):
            if not isinstance(text, str):
                raise _bad_tensor("The elements of the input must be strings: image files in base64.")
            yield text


def _elements(binary: memoryview, limit: int) -> Iterator[bytes]:
    """Yield the elements of a BYTES tensor; each follows its length."""
    position = 0
    for _ in range(limit + 1):
        if position == len(binary):
            return
        start = position + _ELEMENT_LENGTH.size
        if start > len(binary):
            raise _bad_tensor(f"The binary data ends within the length of an image, at byte {len(binary)}.")
        position = start + _ELEMENT_LENGTH.unpack(binary[start - _ELEMENT_LENGTH.size : start])[0]
        if position > len(binary):
            raise _bad_tensor(
                f"The binary data ends within an image: {len(binary)} bytes of at least {position}."
            )
        yield bytes(binary[start:position])


def _bad_tensor(detail: str) -> Problem:
    return Problem("bad-tensor", 400, detail)


def write_tensors(answer: AgeGenderAnswer, sent: SentTensors) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON if binary data follows it."""
    faces = [*_faces(answer)]
    rows = [_row(index, face) for index, face in faces]
    outputs, binary = [], []
    for name, as_binary in sent.outputs.items():
        output = OUTPUTS[name]
        values = np.array([row[name] for row in rows], dtype=output.dtype)
        values = values.reshape([len(rows), *output.shape[1:]])
        described: dict[str, Any] = {
            "name": name,
            "datatype": output.datatype,
            "shape": list(values.shape),
        }
        if as_binary:
            binary.append(values.tobytes())
            described["parameters"] = {"binary_data_size": values.nbytes}
        else:
            described["data"] = [value for row in rows for value in np.atleast_1d(row[name]).tolist()]
        outputs.append(described)
    content: dict[str, Any] = {"model_name": MODEL, "outputs": outputs}
    if sent.request_id is not None:
        content["id"] = sent.request_id
    text = json.dumps(content).encode()
    if not any(sent.outputs.values()):
        return text, None
    return b"".join((text, *binary)), len(text)


def _faces(answer: AgeGenderAnswer) -> Iterator[tuple[int, FaceAnswer]]:
    """Yield each face and the index of its image. The protocol has no place for one image's problem."""
    for index, image in enumerate(answer.images):
        if isinstance(image, ImageProblem):
            problem = Problem.from_document(image.problem)
            if len(answer.images) > 1:
                problem.detail = f"Image {index}: {problem.detail}"
            raise problem
        assert isinstance(image, ImageAnswer)
        for face in image.faces:
            yield index, face


def _row(index: int, face: FaceAnswer) -> dict[str, Any]:
    low, high = face.age.interval
    return {
        "bbox": face.bbox,
        "age": face.age.mean,
        "age_low": low,
        "age_high": high,
        "p_female": face.gender.probability["female"],
        "image_index": index,
    }
