"""`POST /` in the wire format of tae898/age-gender, so that its clients work unchanged."""

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.heads.answers import entropy
from agegender.heads.calibration import mean_years
from agegender.wire import (
    DIMENSION,
    OriginalAge,
    OriginalGender,
    decode_embeddings_request,
    encode_predictions_answer,
)
from agegender_service.admission import read_in_time
from agegender_service.deadlines import DEADLINE_PARAMETER, Deadline
from agegender_service.disconnects import while_awaited
from agegender_service.timings import StageSeconds
from agegender_service.uploads import read_body
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from predictor.batching import Probabilities
from predictor.metrics import STAGE_SECONDS
from predictor.rooms import Rooms


def add_routes(app: FastAPI, rooms: Rooms) -> None:
    settings = rooms.settings
    most = min(settings.max_request_bytes, settings.max_embeddings * DIMENSION * 16)

    @app.post(
        "/",
        tags=["original"],
        summary="The wire format of tae898/age-gender",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"type": "string"}}},
            },
            "parameters": [DEADLINE_PARAMETER],
        },
    )
    async def original(request: Request) -> Response:
        """A JSON string holding jsonpickle of `{"embeddings": bytes}`, answered in kind; in 512-d spaces."""
        deadline = Deadline.of_request(request, settings.timeout)
        watch = StageSeconds(STAGE_SECONDS)
        with rooms.bodies.reserved(request, most):
            with watch.stage("read"):
                body = await read_in_time(read_body(request, most), settings.read_timeout, deadline)
                embeddings = await run_in_threadpool(decode_embeddings_request, body)
            if len(embeddings) > settings.max_embeddings:
                raise Problem(
                    "too-many-embeddings", 413, f"At most {settings.max_embeddings} are taken in one request."
                )
            content = await while_awaited(request, answered(embeddings, watch), deadline)
        return Response(content, media_type="application/json")

    async def answered(embeddings: npt.NDArray[np.float32], watch: StageSeconds) -> bytes:
        space = await rooms.proxy.space()
        if space.dimension != DIMENSION:
            raise Problem(
                "space-mismatch",
                409,
                f"The original's clients send {DIMENSION} numbers a face; the space served is {space}. "
                "Use POST /age-gender, or start the embedding container with one of InsightFace's packs.",
                wanted=str(space),
                given=f"{DIMENSION}-d",
            )
        probabilities = await rooms.predictor.probabilities(embeddings, watch)
        return await run_in_threadpool(_encoded, probabilities)


def _encoded(answered: Probabilities) -> bytes:
    if not len(answered.gender):
        return encode_predictions_answer([], [])
    means, age_entropies = mean_years(answered.age), entropy(answered.age)
    gender_entropies = entropy(answered.gender)
    ages = [
        OriginalAge(mean=float(mean), entropy=float(spread))
        for mean, spread in zip(means, age_entropies, strict=True)
    ]
    genders = [
        OriginalGender(m=float(male), f=float(female), entropy=float(spread))
        for (female, male), spread in zip(np.asarray(answered.gender), gender_entropies, strict=True)
    ]
    return encode_predictions_answer(ages, genders)
