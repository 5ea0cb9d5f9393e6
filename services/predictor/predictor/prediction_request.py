"""Requests for predictions: their options, and reading images and embeddings however they were sent."""

import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.faces import FaceSelection, Number
from agegender.spaces import Space
from agegender_service.forms import too_many_images, url_problem
from agegender_service.inputs import body_schema, contradictory, unknown_input, validation_problem
from agegender_service.request_body import IMAGES_CONTENT, BodyReader, body_in_openapi
from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool

from predictor.registry import HeadRegistry, Heads

Model = TypeVar("Model", bound=BaseModel)
Sent = tuple[str, Iterable[tuple[str, Any]]]  # where options were sent, and their names and values

MAX_VALUES = 100_000  # of JSON with images and options
_DATA_URL = re.compile(r"data:([^,]*),", re.IGNORECASE)
_MAX_DATA_URL_HEADER = 256  # characters before the comma
_PATH = re.compile(r"[^\n]{1,500}\.(jpe?g|png|webp|bmp|gif|tiff?|hei[cf]|avif)", re.IGNORECASE)
_SHOWN = 100  # characters of a path
_UNIT_NORM_TOLERANCE = 0.01  # embeddings are often sent with few digits

Coverage = Annotated[
    float,
    Field(ge=0.5, le=0.99, description="share of faces whose age should be inside the interval"),
    AfterValidator(lambda value: round(value, 2)),
]


class Uncertainty(StrEnum):
    """Select how the uncertainty of an answer is estimated."""

    ENSEMBLE = "ensemble"
    MC_DROPOUT = "mc-dropout"


class HeadOptions(BaseModel):
    """Options of every prediction, sent as query parameters, form fields or JSON members."""

    model_config = ConfigDict(extra="forbid")

    coverage: Coverage = 0.9
    uncertainty: Uncertainty = Field(
        Uncertainty.ENSEMBLE, description="mean over the ensemble's members, or Monte-Carlo dropout (slower)"
    )


class FaceOptions(FaceSelection, HeadOptions):
    """Options of `POST /age-gender`."""

    embeddings: bool = Field(False, description="return each face's embedding, which is biometric data")

    @property
    def selection(self) -> FaceSelection:
        return FaceSelection(**{name: getattr(self, name) for name in FaceSelection.model_fields})


class ImagesRequest(FaceOptions):
    """JSON body with images, for clients that cannot send multipart."""

    images: list[str] | None = Field(
        None, min_length=1, description="image files, each in base64 or as a data URL"
    )
    image: str | None = Field(None, description="the only image, instead of `images`")

    @model_validator(mode="after")
    def _require_one_member(self) -> Self:
        if (self.images is None) == (self.image is None):
            raise PydanticCustomError("images", "Send either images (a list) or image (text) in base64.")
        return self

    @property
    def texts(self) -> list[str]:
        """The images as they were sent."""
        return [self.image] if self.image is not None else self.images or []


def _options_may_be_null(schema: dict[str, Any]) -> None:
    required = schema.get("required", [])
    for name, described in schema["properties"].items():
        if name in required or "anyOf" in described:
            continue
        kept = {
            key: described.pop(key)
            for key in ("title", "description", "default", "examples")
            if key in described
        }
        schema["properties"][name] = {"anyOf": [described, {"type": "null"}], **kept}


class NullsAreAbsent(BaseModel):
    """Options of another system, whose clients send null for those without a value."""

    model_config = ConfigDict(json_schema_extra=_options_may_be_null)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}


class EmbeddingsRequest(HeadOptions):
    """Body of `POST /age-gender/embeddings`."""

    space: str = Field(description="id of the space of the embeddings", examples=["human-3"])
    embeddings: list[list[Number]] = Field(description="points on the unit sphere, one per face")


def _images_in_openapi() -> dict[str, Any]:
    form: dict[str, Any] = IMAGES_CONTENT["multipart/form-data"]["schema"]
    options = body_schema(FaceOptions)["properties"]
    return body_in_openapi(
        {
            **IMAGES_CONTENT,
            "multipart/form-data": {"schema": {**form, "properties": {**form["properties"], **options}}},
            "application/json": {"schema": body_schema(ImagesRequest)},
        }
    )


IMAGES_IN_OPENAPI = _images_in_openapi()  # `openapi_extra` of a route that uses `read_images`


@dataclass(frozen=True)
class SentImages:
    """The images of a request in the order sent; a `Problem` replaces one that could not be decoded."""

    images: list[bytes | Problem]
    options: FaceOptions


@dataclass(frozen=True)
class SentEmbeddings:
    """Checked embeddings [faces, dimension] of unit length, and the heads of their space."""

    heads: Heads
    rows: npt.NDArray[np.float32]
    options: HeadOptions


async def read_images(reader: BodyReader) -> SentImages:
    """Read multipart (field `image`), a raw body, or JSON (`ImagesRequest`), and the options.

    Text that is not base64 is the problem of that image. Raises the problems of
    `agegender_service.request_body.read_upload` and `merged`.
    """
    query = reader.request.query_params.multi_items()
    if not _is_json(reader.request):
        upload = await reader.upload()
        return SentImages([*upload.images], merged(FaceOptions, query, ("form field", upload.fields)))
    body = await reader.json_with_base64()
    sent = await run_in_threadpool(parsed, ImagesRequest, body, MAX_VALUES)
    if len(sent.texts) > reader.limits.max_images:
        raise too_many_images(reader.limits.max_images)
    options = merged(FaceOptions, query, given_options(FaceOptions, sent))
    images = await run_in_threadpool(lambda: [decoded(text) for text in sent.texts])
    return SentImages(images, options)


async def read_embeddings(reader: BodyReader, registry: HeadRegistry, limit: int) -> SentEmbeddings:
    """Read and check JSON embeddings and the options.

    Raises ``invalid-request`` or ``bad-embeddings`` 422, ``too-many-embeddings`` 413, ``no-head`` 409.
    """
    body, query = await reader.whole(), reader.request.query_params.multi_items()

    def parse() -> SentEmbeddings:  # in a thread, which also frees millions of parsed numbers
        sent = parsed(EmbeddingsRequest, body)
        if len(sent.embeddings) > limit:
            raise too_many_embeddings(len(sent.embeddings), limit)
        heads = registry.heads_of(sent.space)
        rows = checked_embeddings(sent.embeddings, heads.age.manifest.space)
        return SentEmbeddings(heads, rows, merged(HeadOptions, query, given_options(HeadOptions, sent)))

    return await run_in_threadpool(parse)


def too_many_embeddings(count: int, limit: int) -> Problem:
    """Create the problem ``too-many-embeddings`` 413."""
    return Problem(
        "too-many-embeddings",
        413,
        f"The request contains {count} embeddings. Send at most {limit} per request.",
    )


def checked_embeddings(rows: Sequence[Sequence[float]], space: Space) -> npt.NDArray[np.float32]:
    """Convert rows to an array [faces, dimension]; raise ``bad-embeddings`` 422 unless they fit the space."""
    wrong = [index for index, row in enumerate(rows) if len(row) != space.dimension]
    if wrong:
        count = len(rows[wrong[0]])
        raise _bad_embeddings(wrong, f"has {count} numbers, but the space {space} has {space.dimension}")
    embeddings = np.array(rows, dtype=np.float64).reshape(len(rows), space.dimension)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(embeddings, axis=1)
    # Negated, so that a norm that overflows is rejected too.
    off = np.flatnonzero(~(np.abs(norms - 1) <= _UNIT_NORM_TOLERANCE)).tolist()
    if off:
        raise _bad_embeddings(off, f"has the length {norms[off[0]]:.4g}, but must have length 1")
    return embeddings.astype(np.float32)


def _bad_embeddings(rows: list[int], fault: str) -> Problem:
    return Problem("bad-embeddings", 422, f"Embedding {rows[0]} {fault}.", rows=rows[:50])


def merged(model: type[Model], query: Iterable[tuple[str, str]], *sent: Sent) -> Model:
    """Merge the options that were sent as query parameters, form fields and JSON members.

    Raises ``invalid-request`` 422 for unknown names, invalid values, and options with two values.
    """
    values: dict[str, Any] = {}
    for place, pairs in (("query parameter", query), *sent):
        for name, given in pairs:
            if name not in model.model_fields:
                raise unknown_input(place, name, model.model_fields)
            value = getattr(validated(model, {name: given}), name)
            if values.setdefault(name, value) != value:
                raise contradictory(name, (values[name], value))
    return model.model_validate(values)


def given_options(model: type[HeadOptions], sent: HeadOptions) -> Sent:
    """Return the options that a JSON body contains."""
    names = sorted(model.model_fields.keys() & sent.model_fields_set)
    return "JSON member", [(name, getattr(sent, name)) for name in names]


def parsed(model: type[Model], body: bytes, max_values: int | None = None) -> Model:
    """Parse a JSON body. Raises ``invalid-request`` 422, which names the fields.

    max_values : bounds the memory of a body that consists of small values instead of long texts.
    """
    if max_values is not None and body.count(b",") >= max_values:
        raise Problem("invalid-request", 422, f"The JSON has more than {max_values} values.")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error, members=model.model_fields) from error


def validated(model: type[Model], values: dict[str, Any]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError, members: Iterable[str] | None = None) -> Problem:
    return validation_problem(error.errors(include_input=False, include_url=False), members=members)


def decoded(text: str) -> bytes | Problem:
    """Decode base64 text without a copy of it, or a data URL with one copy.

    Returns the problem ``bad-base64`` or ``url-not-supported`` 422 if it cannot be decoded.
    """
    header = _DATA_URL.match(text[:_MAX_DATA_URL_HEADER])
    if header is None and (problem := url_problem(text)) is not None:
        return problem
    if header is not None and not header[1].lower().endswith(";base64"):
        return _bad_base64("The data URL is not in base64; send data:image/…;base64, followed by the text.")
    try:
        if header is None:
            return binascii.a2b_base64(text, strict_mode=True)
        return binascii.a2b_base64(memoryview(text.encode("ascii"))[header.end() :], strict_mode=True)
    except (binascii.Error, ValueError):
        if _PATH.fullmatch(text[:512]):
            return _bad_base64(
                f"The image is the path or address {text[:_SHOWN]!r}, which is not supported; send the image."
            )
        return _bad_base64(
            "The image is not valid base64. Use the alphabet A-Z a-z 0-9 + / with padding and without "
            "line breaks (GNU base64: -w0)."
        )


def _bad_base64(detail: str) -> Problem:
    return Problem("bad-base64", 422, detail)


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
