"""`POST /age-gender` from images, and the same from embeddings."""

from typing import Annotated, Any

from agegender.errors import Problem
from agegender.images import decode
from agegender.predictions import AgeGenderAnswer, EmbeddingsAnswer, ImageAnswer
from agegender.web.admission import read_in_time
from agegender.web.deadlines import DEADLINE_PARAMETER, Deadline
from agegender.web.disconnects import unless_disconnected
from agegender.web.uploads import read_body
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from predictor.drawing import annotated
from predictor.intake import IMAGES_BODY, parsed, sent_images
from predictor.options import EmbeddingsRequest, FaceOptions, HeadOptions, Picture
from predictor.prediction import Stopwatch
from predictor.rooms import Rooms

_DRAWN_AT_ONCE = 2  # pictures; each may need a gigabyte of pixels and their encoding
_BYTES_A_NUMBER = 32  # of JSON, at most

_PICTURE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def add_routes(app: FastAPI, rooms: Rooms) -> None:
    settings, predictor = rooms.settings, rooms.predictor
    drawing = CapacityLimiter(_DRAWN_AT_ONCE)

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

        `Accept: image/png` or `image/jpeg` answers with the picture, annotated. Nothing is stored.
        """
        deadline = Deadline.of_request(request, settings.timeout)
        watch = Stopwatch()
        picture = wanted_picture(request.headers.get("accept", ""))
        with rooms.bodies.reserved(request, settings.max_request_bytes):
            with watch.stage("read"):
                images = await sent_images(request, settings.uploads, settings.read_timeout)
            if picture and len(images) > 1:
                raise Problem("one-image-only", 400, "An annotated picture is made of one image a request.")
            answer = await unless_disconnected(request, predictor.images(images, options, deadline, watch))
            if picture is None:
                content = await run_in_threadpool(_json, answer)
                return Response(content, media_type="application/json", headers={"Vary": "Accept"})
            content = await run_sync(_drawn, images[0], answer, picture, rooms, limiter=drawing)
            return Response(content, media_type=f"image/{picture.lower()}", headers={"Vary": "Accept"})

    @app.post(
        "/age-gender/embeddings",
        tags=["age-gender"],
        summary="Age and gender of faces that were embedded before",
        response_model=EmbeddingsAnswer,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": EmbeddingsRequest.model_json_schema()}},
            }
        },
    )
    async def from_embeddings(request: Request, options: Annotated[HeadOptions, Query()]) -> Response:
        """Embeddings of unit length and of the space they name, in the order sent."""
        watch = Stopwatch()
        most = min(settings.max_request_bytes, settings.max_embeddings * 65536 * _BYTES_A_NUMBER)
        with rooms.bodies.reserved(request, most), watch.stage("read"):
            body = await read_in_time(read_body(request, most), settings.read_timeout)
            sent = await run_in_threadpool(parsed, EmbeddingsRequest, body)
        if len(sent.embeddings) > settings.max_embeddings:
            raise Problem(
                "too-many-embeddings", 413, f"At most {settings.max_embeddings} are taken in one request."
            )
        answer = await predictor.embeddings(sent, options, watch)
        return Response(await run_in_threadpool(_json, answer), media_type="application/json")


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
