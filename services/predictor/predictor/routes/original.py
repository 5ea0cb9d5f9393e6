"""`POST /` in the wire format of tae898/age-gender, so that its clients work unchanged."""

from collections.abc import AsyncIterator
from typing import Annotated

import numpy as np
import numpy.typing as npt
from agegender.heads.calibration import mean_years
from agegender.predictions import entropy
from agegender.wire import (
    DIMENSION,
    OriginalAge,
    OriginalGender,
    decode_embeddings_request,
    encode_predictions_answer,
    require_original_dimension,
)
from agegender_service.request_body import JSON_STRING_IN_OPENAPI, BodyReader, Received
from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from predictor.prediction import ServicesIn
from predictor.prediction_request import too_many_embeddings
from predictor.registry import Probabilities

_BYTES_PER_NUMBER = 16  # of a pickled array in base64, with room for its wrapping

Embeddings = npt.NDArray[np.float32]

router = APIRouter(tags=["original"])


async def _embeddings(request: Request, services: ServicesIn) -> AsyncIterator[Received[Embeddings]]:
    settings = services.settings

    async def read(reader: BodyReader) -> Embeddings:
        embeddings = await run_in_threadpool(decode_embeddings_request, await reader.whole())
        if len(embeddings) > settings.max_embeddings:
            raise too_many_embeddings(len(embeddings), settings.max_embeddings)
        return embeddings

    max_bytes = min(settings.max_request_bytes, settings.max_embeddings * DIMENSION * _BYTES_PER_NUMBER)
    async with services.bodies.received(request, read, max_bytes=max_bytes) as received:
        yield received


@router.post(
    "/",
    summary="Age and gender of embeddings, in the wire format of tae898/age-gender",
    openapi_extra=JSON_STRING_IN_OPENAPI,
)
async def original(
    received: Annotated[Received[Embeddings], Depends(_embeddings, scope="function")], services: ServicesIn
) -> Response:
    """Send a JSON string that contains jsonpickle of `{"embeddings": bytes}`, in a 512-dimensional space."""
    require_original_dimension(await services.proxy.space())
    probabilities = await services.predictor.probabilities(received.body, received.stopwatch)
    return Response(await run_in_threadpool(_encoded, probabilities), media_type="application/json")


def _encoded(probabilities: Probabilities) -> bytes:
    if not len(probabilities.gender):
        return encode_predictions_answer([], [])
    means, age_entropies = mean_years(probabilities.age), entropy(probabilities.age)
    gender_entropies = entropy(probabilities.gender)
    ages = [
        OriginalAge(mean=float(mean), entropy=float(spread))
        for mean, spread in zip(means, age_entropies, strict=True)
    ]
    genders = [
        OriginalGender(m=float(male), f=float(female), entropy=float(spread))
        for (female, male), spread in zip(np.asarray(probabilities.gender), gender_entropies, strict=True)
    ]
    return encode_predictions_answer(ages, genders)
