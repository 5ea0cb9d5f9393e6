"""Routes of videos: upload or name one, and read its answer."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Literal

from agegender.errors import Problem
from agegender_service.forms import is_form
from agegender_service.inputs import preferred_media_type
from fastapi import Header, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import Field
from redis import Redis
from starlette.concurrency import run_in_threadpool

from trainer.datasets.uploads import volume_errors
from trainer.jobs import VIDEOS
from trainer.routes.files import one_upload, receive_files, upload_in_openapi
from trainer.routes.runs import Connection, Settings, create_run, run_routes
from trainer.settings import TrainerSettings
from trainer.videos.video import (
    ANNOTATED,
    ANSWER,
    PERSONS,
    SOURCE,
    SUMMARY,
    VideoOptions,
    VideoRun,
    VideoStatus,
    new_video,
    new_video_id,
    stored_video,
    uploaded_name,
    video_dir,
)

router = run_routes(VIDEOS, VideoStatus)


class VideoRequest(VideoOptions):
    """`POST /videos`."""

    file: str | None = Field(
        None,
        max_length=255,
        description="name of a file in `videos` of the data folder, if none is uploaded",
    )


@router.post(
    "",
    status_code=202,
    summary="Answer a video once per person",
    openapi_extra=upload_in_openapi(
        {
            "type": "string",
            "format": "binary",
            "description": "a video file: MP4, MOV, WebM, MKV, AVI and others",
        },
        required=False,
    ),
)
async def create(
    query: Annotated[VideoRequest, Query()],
    request: Request,
    settings: Settings,
    redis: Connection,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> VideoStatus:
    """Send the video as the form field `file` (at most 8 GiB), or name one in `videos` of the data folder.

    The uploaded video is stored until the run is deleted. A repeated request with the same `Idempotency-Key`
    returns the same run.
    """
    run_id = new_video_id(idempotency_key)
    options = VideoOptions.model_validate(query.model_dump(exclude={"file"}))
    if is_form(request.headers) == (query.file is not None):
        raise Problem(
            "invalid-request",
            422,
            "Expected either a video in the form field `file` (curl -F file=@clip.mp4 …), or the parameter "
            "`file` with the name of a video in the folder `videos` of the data folder.",
        )
    if query.file is not None:
        return await run_in_threadpool(_create_stored, settings, redis, run_id, query.file, options)
    async with one_upload(settings.data_dir):
        return await _create_uploaded(request, settings, redis, run_id, options)


def _create_stored(
    settings: TrainerSettings, redis: Redis, run_id: str, name: str, options: VideoOptions
) -> VideoStatus:
    def complete() -> VideoRun:
        return new_video(run_id, stored_video(settings.data_dir, name), options, uploaded=False)

    return create_run(VIDEOS, settings, redis, run_id, complete)


async def _create_uploaded(
    request: Request, settings: TrainerSettings, redis: Redis, run_id: str, options: VideoOptions
) -> VideoStatus:
    data_dir = settings.data_dir
    with _received_folder(data_dir) as folder:
        names: list[str] = []

        def open_file(given: str) -> IO[bytes]:
            if names:
                raise Problem("bad-upload", 422, "The upload has several files; send one video per request.")
            names.append(uploaded_name(given))
            return (folder / names[0]).open("xb")

        await receive_files(request, data_dir, open_file)
        if not names:
            raise Problem("bad-upload", 422, "The upload has no file. Send a video as the form field `file`.")

        def complete() -> VideoRun:
            run = new_video(run_id, folder / names[0], options, uploaded=True)
            target = video_dir(data_dir, run_id)
            target.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target / SOURCE, ignore_errors=True)  # of an upload that a kill interrupted
            folder.rename(target / SOURCE)
            return run

        return await run_in_threadpool(create_run, VIDEOS, settings, redis, run_id, complete)


@contextmanager
def _received_folder(data_dir: Path) -> Iterator[Path]:
    """Yield a new folder for an upload; delete it unless it was renamed."""
    folder = data_dir / f".upload-{uuid.uuid4().hex}"
    with volume_errors():
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@router.get(
    "/{video_id}/answer",
    summary="Return the persons of a video as JSON or CSV, selected by `format` or `Accept`",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/csv": {}}}},
)
def answer(
    video_id: str,
    settings: Settings,
    request: Request,
    format: Literal["json", "csv"] | None = None,
) -> Response:
    """One entry or row per person: when it is visible, age with interval, and gender."""
    media_type = preferred_media_type(request, ["application/json", "text/csv"])
    if format is not None:
        media_type = "text/csv" if format == "csv" else "application/json"
    name = PERSONS if media_type == "text/csv" else ANSWER
    return _file(settings, video_id, name, media_type)


@router.get(
    "/{video_id}/summary",
    summary="Return a plot of the persons over time as SVG",
    response_class=Response,
    responses={200: {"content": {"image/svg+xml": {}}}},
)
def summary(video_id: str, settings: Settings) -> Response:
    return _file(settings, video_id, SUMMARY, "image/svg+xml")


@router.get(
    "/{video_id}/annotated",
    summary="Return the copy of the video with a label per person, if it was requested",
    response_class=Response,
    responses={200: {"content": {"video/mp4": {}}}},
)
def annotated(video_id: str, settings: Settings) -> Response:
    run = VIDEOS.load(settings.data_dir, video_id)
    if not run.options.annotated:
        raise Problem(
            "not-requested",
            404,
            f"No annotated copy of video {video_id} was requested. Send the video again with annotated=true.",
        )
    return _file(settings, video_id, ANNOTATED, "video/mp4")


def _file(settings: TrainerSettings, video_id: str, name: str, media_type: str) -> Response:
    """Return a file of a finished run. Raises ``not-found`` 404 and ``not-finished`` 409."""
    run = VIDEOS.load(settings.data_dir, video_id)
    path = video_dir(settings.data_dir, run.id) / name
    if VIDEOS.status(settings.data_dir, run).state != "finished" or not path.is_file():
        raise Problem("not-finished", 409, f"Video {video_id} has no answer yet; wait until it is finished.")
    stem = Path(run.file).stem
    filename = None if name == ANSWER else f"{stem}-{name}"
    return FileResponse(path, media_type=media_type, filename=filename)
