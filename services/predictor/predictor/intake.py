"""The images of a request, however they were sent."""

import base64
import binascii
from typing import TypeVar

from agegender.errors import Problem
from agegender.web.admission import read_in_time
from agegender.web.deadlines import Deadline
from agegender.web.uploads import IMAGES_CONTENT, UploadLimits, read_body, read_images
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from predictor.options import ImagesRequest

Model = TypeVar("Model", bound=BaseModel)

# OpenAPI's account of what `sent_images` takes.
IMAGES_BODY = {
    "required": True,
    "content": {
        **IMAGES_CONTENT,
        "application/json": {"schema": ImagesRequest.model_json_schema()},
    },
}


async def sent_images(
    request: Request, limits: UploadLimits, seconds: float, deadline: Deadline
) -> list[bytes | Problem]:
    """From multipart field `image`, the raw body, or JSON `{"images": [base64, …]}`.

    Text that is not base64 is the problem of that one image. Raises the problems of
    `agegender.web.uploads.read_images`.
    """
    if not _is_json(request):
        return list(await read_in_time(read_images(request, limits), seconds, deadline))
    body = await read_in_time(read_body(request, limits.max_body_bytes * 4 // 3), seconds, deadline)
    sent = await run_in_threadpool(parsed, ImagesRequest, body)
    if len(sent.images) > limits.max_images:
        raise Problem("too-many-images", 413, f"At most {limits.max_images} images are taken in one request.")
    return await run_in_threadpool(lambda: [_decoded(text) for text in sent.images])


def parsed(model: type[Model], body: bytes) -> Model:
    """A JSON body as `model`, or the problem ``invalid-request`` 422 that names the fields."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        errors = [
            {"field": ".".join(str(part) for part in item["loc"]), "message": item["msg"]}
            for item in error.errors(include_input=False, include_url=False)[:50]
        ]
        detail = "; ".join(f"{item['field'] or 'body'}: {item['message']}" for item in errors[:5])
        raise Problem("invalid-request", 422, detail, errors=errors) from error


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _decoded(text: str) -> bytes | Problem:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return Problem("bad-base64", 422, "The image is not base64; leave out any 'data:…,' in front of it.")
