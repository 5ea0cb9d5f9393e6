"""`/age-gender` for images and for embeddings, and `/models`: the heads that answer, and their rollback."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from agegender.drawing import ImageFormat, annotated
from agegender.errors import Problem
from agegender.heads.head import Task
from agegender.images import ImageLimits, decode
from agegender.keys import Scope
from agegender.predictions import AgeGenderAnswer, EmbeddingsAnswer, ImageAnswer, Models
from agegender.spaces import NAME
from agegender_service.guards import needs
from agegender_service.inputs import body_schema, preferred_media_type
from agegender_service.request_body import Received, body_in_openapi
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from predictor.prediction import Services, ServicesIn, for_faces, raise_problem_of_lone_image
from predictor.prediction_request import (
    IMAGES_IN_OPENAPI,
    EmbeddingsRequest,
    FaceOptions,
    HeadOptions,
    SentEmbeddings,
    SentImages,
    read_embeddings,
    read_images,
)

_BYTES_PER_NUMBER = 32  # of JSON, at most
_MAX_DIMENSION = 65536

_JSON = "application/json"
_IMAGE_FORMATS: dict[str, ImageFormat] = {"image/jpeg": "JPEG", "image/png": "PNG"}
MEDIA_TYPES = (_JSON, *_IMAGE_FORMATS)  # the default first
_IMAGE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}

router = APIRouter(prefix="/age-gender", tags=["age-gender"])


# The options are parameters of the dependencies, so that wrong ones are rejected before the body is read.
async def _images(
    request: Request, services: ServicesIn, options: Annotated[FaceOptions, Query()]
) -> AsyncIterator[Received[SentImages]]:
    async with services.bodies.received(
        request,
        read_images,
        max_bytes=services.settings.max_request_bytes,
        images=lambda sent: sent.images,
    ) as received:
        yield received


async def _embeddings(
    request: Request, services: ServicesIn, options: Annotated[HeadOptions, Query()]
) -> AsyncIterator[Received[SentEmbeddings]]:
    settings = services.settings
    limit = settings.max_embeddings
    read = partial(read_embeddings, registry=services.registry, limit=limit)
    max_bytes = min(settings.max_request_bytes, limit * _MAX_DIMENSION * _BYTES_PER_NUMBER)
    async with services.bodies.received(request, read, max_bytes=max_bytes) as received:
        yield received


ImagesIn = Annotated[Received[SentImages], Depends(_images, scope="function")]
EmbeddingsIn = Annotated[Received[SentEmbeddings], Depends(_embeddings, scope="function")]


@router.post(
    "",
    summary="Age and gender of each face",
    response_model=AgeGenderAnswer,
    responses={200: {"content": {"image/png": _IMAGE, "image/jpeg": _IMAGE}}},
    openapi_extra=IMAGES_IN_OPENAPI,
)
async def age_gender(request: Request, received: ImagesIn, services: ServicesIn) -> Response:
    """Send images in the multipart field `image` (repeatable), one as the raw body, or base64 in JSON.

    Options are query parameters, form fields or JSON members; unknown and contradictory ones are rejected
    (422). With `Accept: image/png` or `image/jpeg`, the response is the annotated image. Images are not
    stored; the embedder-proxy may cache embeddings (`embedding_cache_seconds` of `/info`).
    """
    sent, media_type = received.body, preferred_media_type(request, MEDIA_TYPES)
    if media_type != _JSON and len(sent.images) > 1:
        raise Problem(
            "one-image-only",
            400,
            f"{media_type} is available for one image per request, but {len(sent.images)} were sent. "
            f"Send one image, or accept {_JSON}.",
        )
    answer = await services.predictor.images(sent, received.deadline, received.stopwatch)
    raise_problem_of_lone_image(answer)
    if media_type == _JSON:
        faces = sum(len(image.faces) for image in answer.images if isinstance(image, ImageAnswer))
        content = await for_faces(faces, _encoded, answer)
    else:
        limits, image_format = services.settings.image_limits, _IMAGE_FORMATS[media_type]
        content = await services.drawing.run(_drawn, sent.images[0], answer, image_format, limits)
    return Response(content, media_type=media_type, headers={"Vary": "Accept"})


@router.post(
    "/embeddings",
    summary="Age and gender of faces that were embedded before",
    response_model=EmbeddingsAnswer,
    openapi_extra=body_in_openapi({_JSON: {"schema": body_schema(EmbeddingsRequest)}}),
)
async def from_embeddings(received: EmbeddingsIn, services: ServicesIn) -> Response:
    """Send embeddings of unit length and the space they belong to; the response keeps their order."""
    answer = await services.predictor.embeddings(received.body, received.stopwatch)
    return Response(await for_faces(len(answer.faces), _encoded, answer), media_type=_JSON)


def _encoded(answer: AgeGenderAnswer | EmbeddingsAnswer) -> bytes:
    return answer.model_dump_json(exclude_none=True).encode()


def _drawn(
    image: bytes | Problem, answer: AgeGenderAnswer, image_format: ImageFormat, limits: ImageLimits
) -> bytes:
    (entry,) = answer.images
    assert isinstance(image, bytes) and isinstance(entry, ImageAnswer)  # a problem was raised before
    return annotated(decode(image, limits), entry.faces, image_format)


_ADMIN_ONLY = [Depends(needs(Scope.ADMIN))]

models_router = APIRouter(prefix="/models", tags=["models"])


@models_router.get("", summary="List the served heads and their cards")
async def models(services: ServicesIn) -> Models:
    return _current(services)


@models_router.post("/refresh", summary="Look for promoted heads now", dependencies=_ADMIN_ONLY)
async def refresh(services: ServicesIn) -> Models:
    await run_in_threadpool(services.registry.refresh)
    return _current(services)


@models_router.post("/{task}/rollback", summary="Serve the previous head", dependencies=_ADMIN_ONLY)
async def rollback(
    task: Task,
    services: ServicesIn,
    space: Annotated[
        str | None,
        Query(
            description="default: the space that the proxy uses now, or the only one with a previous head",
            pattern=f"^{NAME.pattern}$",
        ),
    ] = None,
) -> Models:
    """Serve the head that was served before the current one. Call again to go further back.

    A rollback never serves a newer head. To serve one again, promote its experiment.
    """
    selected = space or await _default_space(services, task)
    await run_in_threadpool(services.registry.rollback, task, selected)
    return _current(services)


def _current(services: Services) -> Models:
    return Models(models=services.registry.status(), warnings=services.registry.warnings)


async def _default_space(services: Services, task: Task) -> str:
    try:
        return (await services.proxy.space()).id
    except Problem:
        heads = services.registry.status()
        spaces = [head.space for head in heads if head.task is task and head.previous]
        if len(spaces) != 1:
            raise
        return spaces[0]
