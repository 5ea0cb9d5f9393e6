"""Routes of the files of data sets: upload them, and look at the images with their labels."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

from agegender.errors import Problem, busy, client_closed_request, not_found
from agegender.labels import GENDER_NAMES
from agegender_service.forms import is_form, store_files
from agegender_service.request_body import body_chunks
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from trainer.datasets.catalog import dataset_folder, dataset_in, unknown_folder
from trainer.datasets.formats import require_format
from trainer.datasets.labels import LabelledImage, Reason, checked_rows, is_safe_name
from trainer.datasets.regrouping import thumbnail
from trainer.datasets.uploads import (
    MAX_BYTES,
    Unpacked,
    Upload,
    delete_stale_uploads,
    require_space,
    volume_errors,
)
from trainer.routes.runs import Settings

router = APIRouter(prefix="/datasets", tags=["datasets"])

FIELD = "file"
_SILENCE = 30.0  # seconds without a byte after which an upload is given up
_AT_ONCE = 4  # uploads of data sets and videos; a data set occupies a thread while it is unpacked
_MOST_ROWS = 200
_MOST_TABLES = 100
_SIDE = 160  # pixels of a thumbnail

_free = threading.BoundedSemaphore(_AT_ONCE)


def upload_in_openapi(file: dict[str, Any], *, required: bool) -> dict[str, Any]:
    """Describe a form with the field `file`, whose schema is `file`, as `openapi_extra` of a route."""
    schema = {"type": "object", "required": [FIELD], "properties": {FIELD: file}}
    return {"requestBody": {"required": required, "content": {"multipart/form-data": {"schema": schema}}}}


@asynccontextmanager
async def one_upload(data_dir: Path) -> AsyncIterator[None]:
    """Hold one of the uploads that may run at once. Raises ``busy`` 429 if there is none left."""
    if not _free.acquire(blocking=False):
        raise busy("As many uploads as allowed are running. Retry when one of them is over.", retry_after=10)
    try:
        await run_in_threadpool(delete_stale_uploads, data_dir)
        yield
    finally:
        _free.release()


async def receive_files(request: Request, data_dir: Path, open_file: Callable[[str], IO[bytes]]) -> None:
    """Write the files of the form field `file` while they arrive.

    open_file : returns the file to write to, for the name that the client gave.

    Raises ``volume-full`` 507, ``client-closed-request`` 499, and what `body_chunks` and `store_files` raise.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit():
        require_space(data_dir, min(int(declared[:18]), MAX_BYTES))
    with volume_errors():
        await store_files(request.headers, body_chunks(request, MAX_BYTES, _SILENCE), FIELD, open_file)
    if await request.is_disconnected():
        raise client_closed_request()


class UploadAnswer(BaseModel):
    """Describe what an upload stored in a new folder."""

    name: str = Field(description="of the data set")
    images: int
    tables: list[str] = Field(description="files that may hold the labels, or images; the first 100")
    size: int = Field(description="bytes on the volume")
    skipped: dict[str, int] = Field(description="files that were not stored, by their ending")
    format: str | None = Field(description="label format; null if the labels are not recognised yet")
    problem: str | None = Field(description="why the labels are not recognised")


class LabelledFile(BaseModel):
    """One image of a data set with its labels."""

    file: str = Field(description="name of the image, relative to the folder of images")
    age_low: float | None = Field(description="years; null if unknown")
    age_high: float | None = Field(description="years; equal to `age_low` for an exact age")
    gender: str | None
    subject: str | None
    removed: Reason | None = Field(description="why the row is not used; null if it is")


@router.post(
    "/{name}/files",
    status_code=201,
    summary="Upload a data set: a zip, or images with a table",
    openapi_extra=upload_in_openapi(
        {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "minItems": 1,
            "description": "a zip, or images and a table; the name may contain folders",
        },
        required=True,
    ),
)
async def upload(name: str, request: Request, settings: Settings) -> UploadAnswer:
    """The folder appears whole at the end, or not at all. An existing one is not changed (409).

    Field `file`, repeatable, at most 8 GiB. An archive is checked before it is unpacked.
    """
    if not is_form(request.headers):
        raise Problem(
            "invalid-request",
            422,
            f"Expected a multipart form with the field {FIELD!r}: curl -F {FIELD}=@faces.zip …",
        )
    async with one_upload(settings.data_dir):
        with Upload(settings.data_dir, name) as new:
            await receive_files(request, settings.data_dir, new.open)
            found = await run_in_threadpool(new.publish)
        return await run_in_threadpool(_answer, settings.data_dir / name, found)


def _answer(folder: Path, found: Unpacked) -> UploadAnswer:
    dataset = dataset_in(folder) or unknown_folder(folder)
    return UploadAnswer(
        name=folder.name,
        images=found.images,
        tables=found.tables[:_MOST_TABLES],
        size=found.size,
        skipped=dict(found.skipped),
        format=dataset.format,
        problem=dataset.problem,
    )


def _folder(name: str, settings: Settings) -> Path:
    return dataset_folder(settings.data_dir, name)


Folder = Annotated[Path, Depends(_folder)]


@router.get("/{name}/images", summary="List the images of a data set with their labels, in their order")
def list_images(
    folder: Folder,
    image_set: Annotated[str | None, Query(description="default: the first that exists")] = None,
    first: Annotated[int, Query(ge=0, le=10_000_000, description="rows to skip")] = 0,
    rows: Annotated[int, Query(ge=1, le=_MOST_ROWS, description="number of rows")] = 24,
) -> list[LabelledFile]:
    """Reads the labels as an extraction does. A row that would be removed has the reason."""
    label_format = require_format(folder)
    selected = _image_set(label_format.image_sets(folder), image_set)
    image_dir = label_format.image_dir(folder, selected)
    found = checked_rows(label_format.read(folder, selected), image_dir)
    return [
        _listed(row)
        if isinstance(row, LabelledImage)
        else LabelledFile(
            file=row.file, age_low=None, age_high=None, gender=None, subject=None, removed=row.reason
        )
        for row in islice(found, first, first + rows)
    ]


def _listed(row: LabelledImage) -> LabelledFile:
    has_age = row.age_low == row.age_low  # NaN if unknown
    return LabelledFile(
        file=row.file,
        age_low=row.age_low if has_age else None,
        age_high=row.age_high if has_age else None,
        gender=GENDER_NAMES[row.gender] if row.gender >= 0 else None,
        subject=row.subject or None,
        removed=None,
    )


@router.get(
    "/{name}/images/thumbnail",
    summary="Return a small JPEG of one image of a data set",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
def image_thumbnail(
    folder: Folder,
    file: Annotated[str, Query(max_length=1024, description="as `GET /datasets/{name}/images` lists it")],
    image_set: Annotated[str | None, Query(description="default: the first that exists")] = None,
) -> Response:
    label_format = require_format(folder)
    selected = _image_set(label_format.image_sets(folder), image_set)
    content = thumbnail(label_format.image_dir(folder, selected), file, _SIDE) if is_safe_name(file) else None
    if content is None:
        raise not_found("image that can be shown", file[:100])
    return Response(content, media_type="image/jpeg")


def _image_set(existing: list[str], requested: str | None) -> str:
    if requested is not None and requested not in existing:
        raise not_found("image_set", requested, image_sets=existing)
    return existing[0] if requested is None else requested
