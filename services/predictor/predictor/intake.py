"""The images and options of a request, however they were sent."""

import binascii
import re
from typing import Any

from agegender.errors import Problem
from agegender_service.admission import read_in_time
from agegender_service.deadlines import Deadline
from agegender_service.uploads import IMAGES_CONTENT, UploadLimits, read_body, read_upload, url_problem
from fastapi import Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from predictor.options import FaceOptions, ImagesRequest, given_options, merged, parsed

_DATA_URL = re.compile(r"data:([^,]*),", re.IGNORECASE)
_LONGEST_HEADER = 256  # characters of a data URL before its comma


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a JSON body that is no parameter of its route; FastAPI has the enumerations already."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema


def _images_body() -> dict[str, Any]:
    form: dict[str, Any] = IMAGES_CONTENT["multipart/form-data"]["schema"]
    options = body_schema(FaceOptions)["properties"]
    return {
        "required": True,
        "content": {
            **IMAGES_CONTENT,
            "multipart/form-data": {"schema": {**form, "properties": {**form["properties"], **options}}},
            "application/json": {"schema": body_schema(ImagesRequest)},
        },
    }


# OpenAPI's account of what `sent_images` takes.
IMAGES_BODY = _images_body()


async def sent_images(
    request: Request, limits: UploadLimits, seconds: float, deadline: Deadline
) -> tuple[list[bytes | Problem], FaceOptions]:
    """Images of multipart field `image`, the raw body, or JSON `{"images": [base64, …]}`, and the options.

    Options are query parameters, form fields or JSON members. Text that is not base64 is the problem of that
    one image. Raises the problems of `agegender_service.uploads.read_upload` and `predictor.options.merged`.
    """
    query = request.query_params.multi_items()
    if not _is_json(request):
        upload = await read_in_time(read_upload(request, limits), seconds, deadline)
        return list(upload.images), merged(FaceOptions, query, ("form field", upload.fields))
    body = await read_in_time(read_body(request, limits.max_body_bytes * 4 // 3), seconds, deadline)
    sent = await run_in_threadpool(parsed, ImagesRequest, body)
    if len(sent.images) > limits.max_images:
        raise Problem("too-many-images", 413, f"At most {limits.max_images} images are taken in one request.")
    options = merged(FaceOptions, query, given_options(FaceOptions, sent))
    return await run_in_threadpool(lambda: [decoded(text) for text in sent.images]), options


def decoded(text: str) -> bytes | Problem:
    """The bytes of base64 text or of a data URL, without a copy of base64 and with one of a data URL.

    Gives the problem ``bad-base64`` or ``url-not-supported`` 422.
    """
    header = _DATA_URL.match(text[:_LONGEST_HEADER])
    if header is None and (problem := url_problem(text)) is not None:
        return problem
    if header is not None and not header[1].lower().endswith(";base64"):
        return _bad_base64("The data URL is not in base64; it begins with data:image/…;base64, and the text.")
    try:
        if header is None:
            return binascii.a2b_base64(text, strict_mode=True)
        return binascii.a2b_base64(memoryview(text.encode("ascii"))[header.end() :], strict_mode=True)
    except (binascii.Error, ValueError):
        return _bad_base64(
            "The image is not base64 of the alphabet A-Z a-z 0-9 + / with its padding; "
            "line breaks are not taken (GNU base64: -w0)."
        )


def _bad_base64(detail: str) -> Problem:
    return Problem("bad-base64", 422, detail)


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
