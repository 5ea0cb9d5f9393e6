"""`POST /age-gender` from images, and the same from embeddings."""

from collections.abc import Sequence
from typing import Annotated, Any

from agegender.errors import Problem
from agegender.images import decode
from agegender.predictions import AgeGenderAnswer, EmbeddingsAnswer, ImageAnswer
from agegender_service.admission import read_in_time
from agegender_service.deadlines import DEADLINE_PARAMETER, Deadline
from agegender_service.disconnects import while_awaited
from agegender_service.timings import StageSeconds
from agegender_service.uploads import read_body
from fastapi import FastAPI, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from predictor.drawing import annotated
from predictor.intake import IMAGES_BODY, body_schema, sent_images
from predictor.metrics import STAGE_SECONDS
from predictor.options import (
    EmbeddingsRequest,
    FaceOptions,
    HeadOptions,
    Picture,
    given_options,
    merged,
    parsed,
)
from predictor.prediction import Array
from predictor.registry import Heads
from predictor.rooms import Rooms

_BYTES_A_NUMBER = 32  # of JSON, at most

_PICTURE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def add_routes(app: FastAPI, rooms: Rooms) -> None:
    settings, predictor = rooms.settings, rooms.predictor

    @app.post(
        "/age-gender",
        tags=["age-gender"],
        summary="Age and gender of each face",
        response_model=AgeGenderAnswer,
        responses={200: {"content": {"image/png": _PICTURE, "image/jpeg": _PICTURE}}},
        openapi_extra={"requestBody": IMAGES_BODY, "parameters": [DEADLINE_PARAMETER]},
    )
    async def age_gender(request: Request, options: Annotated[FaceOptions, Query()]) -> Response:
        """Images as multipart field `image` (repeatable), one as the raw body, or base64 in JSON.

        Options are query parameters, form fields or JSON members; an unknown one, or two values, is 422.
        `Accept: image/png` or `image/jpeg` answers with the picture, annotated. Images are not stored; the
        embedder-proxy may keep embeddings in its cache (`embedding_cache_seconds` of `/info`).
        """
        deadline = Deadline.of_request(request, settings.timeout)
        watch = StageSeconds(STAGE_SECONDS)
        picture = wanted_picture(request.headers.get("accept", ""))
        with rooms.bodies.reserved(request, settings.max_request_bytes):
            with watch.stage("read"):
                images, merged_options = await sent_images(
                    request, settings.uploads, settings.read_timeout, deadline
                )
            deadline = deadline.for_images(len(images))
            if picture and len(images) > 1:
                raise Problem("one-image-only", 400, "An annotated picture is made of one image a request.")
            content = await while_awaited(
                request, answered(images, merged_options, deadline, watch, picture), deadline
            )
        media_type = "application/json" if picture is None else f"image/{picture.lower()}"
        return Response(content, media_type=media_type, headers={"Vary": "Accept"})

    async def answered(
        images: Sequence[bytes | Problem],
        options: FaceOptions,
        deadline: Deadline,
        watch: StageSeconds,
        picture: Picture | None,
    ) -> bytes:
        answer = await predictor.images(images, options, deadline, watch)
        if picture is None:
            return await run_in_threadpool(_json, answer)
        return await rooms.drawing.run(_drawn, images[0], answer, picture, rooms)

    @app.post(
        "/age-gender/embeddings",
        tags=["age-gender"],
        summary="Age and gender of faces that were embedded before",
        response_model=EmbeddingsAnswer,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": body_schema(EmbeddingsRequest)}},
            },
            "parameters": [DEADLINE_PARAMETER],
        },
    )
    async def from_embeddings(request: Request, options: Annotated[HeadOptions, Query()]) -> Response:
        """Embeddings of unit length and of the space they name, in the order sent."""
        deadline = Deadline.of_request(request, settings.timeout)
        watch = StageSeconds(STAGE_SECONDS)
        most = min(settings.max_request_bytes, settings.max_embeddings * 65536 * _BYTES_A_NUMBER)
        with rooms.bodies.reserved(request, most):
            with watch.stage("read"):
                body = await read_in_time(read_body(request, most), settings.read_timeout, deadline)
                query = request.query_params.multi_items()
                heads, embeddings, merged_options = await run_in_threadpool(received, body, query)
            work = answered_embeddings(heads, embeddings, merged_options, watch)
            content = await while_awaited(request, work, deadline)
        return Response(content, media_type="application/json")

    def received(body: bytes, query: list[tuple[str, str]]) -> tuple[Heads, Array, HeadOptions]:
        """In a thread, to the end: two million parsed numbers take their time to be freed, too."""
        sent = parsed(EmbeddingsRequest, body)
        if len(sent.embeddings) > settings.max_embeddings:
            raise Problem(
                "too-many-embeddings", 413, f"At most {settings.max_embeddings} are taken in one request."
            )
        return *predictor.checked(sent), merged(HeadOptions, query, given_options(HeadOptions, sent))

    async def answered_embeddings(
        heads: Heads, embeddings: Array, options: HeadOptions, watch: StageSeconds
    ) -> bytes:
        answer = await predictor.embeddings(heads, embeddings, options, watch)
        return await run_in_threadpool(_json, answer)


def wanted_picture(accept: str) -> Picture | None:
    """What an `Accept` header likes best of JSON, PNG and JPEG (RFC 9110, 12.5.1); None for JSON."""
    best: Picture | None = None
    best_weight = 0.0
    kinds: dict[str, Picture | None] = {
        "application/json": None,
        "*/*": None,
        "application/*": None,
        "image/png": "PNG",
        "image/jpeg": "JPEG",
        "image/*": "JPEG",
    }
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((_weight(piece[2:]) for piece in parameters if piece.startswith("q=")), 1.0)
        if kind in kinds and weight > best_weight:
            best, best_weight = kinds[kind], weight
    return best


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _json(answer: AgeGenderAnswer | EmbeddingsAnswer) -> bytes:
    return answer.model_dump_json(exclude_none=True).encode()


def _drawn(image: bytes | Problem, answer: AgeGenderAnswer, picture: Picture, rooms: Rooms) -> bytes:
    found = answer.images[0]
    assert isinstance(image, bytes) and isinstance(found, ImageAnswer)  # its problem is the request's
    return annotated(decode(image, rooms.settings.image_limits), found.faces, picture)
