"""The routes that all kinds of runs share: list, show, events, report, resume, cancel, delete."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Set
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from agegender.display import ReportFormat, TableFormat
from agegender.errors import Problem
from agegender_service.guards import REPORT_HEADERS
from agegender_service.inputs import preferred_media_type
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.sse import EventSourceResponse
from redis import Redis

from trainer.experiments.predictions import as_csv, as_json, as_parquet
from trainer.runs import scheduler
from trainer.runs.run import REPORT, Kind, R, S, statuses, unreadable_names
from trainer.settings import TrainerSettings

UNREADABLE = "X-Unreadable-Records"  # names of the records that a list skipped
_TO_TRASH = (
    "Moves its files to the trash, from which `restore` brings them back; `POST /prune` empties it.\n\n"
    "Heads that were promoted from it, and options taken from it, stay."
)
_AT_ONCE = "Removes all its files, with what was uploaded for it. They cannot be restored."
_EVENT_SECONDS = 0.5  # between two reads of a status
_MEDIA_TYPES: dict[str, ReportFormat] = {
    "application/json": "json",
    "text/html": "html",
    "text/markdown": "md",
}  # the default first
TABLE_MEDIA_TYPES: dict[str, TableFormat] = {
    "application/json": "json",
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
}  # the default first


def _settings(request: Request) -> TrainerSettings:
    settings: TrainerSettings = request.app.state.settings
    return settings


def _redis(request: Request) -> Redis:
    """Return the connection if Redis answers, so that a route that needs it changes no file otherwise."""
    redis: Redis = request.app.state.redis
    redis.ping()
    return redis


Settings = Annotated[TrainerSettings, Depends(_settings)]
Connection = Annotated[Redis, Depends(_redis)]


def run_routes(kind: Kind[R, S], status: type[S]) -> APIRouter:
    """Return a router with the shared routes of a kind, to which its own are added.

    status : the model that `kind.status` returns.
    """
    router = APIRouter(prefix=f"/{kind.path}", tags=[kind.path])
    run = f"{kind.article} {kind.name}"
    RunId = Annotated[str, Path(alias=f"{kind.name}_id")]

    @router.get(
        "",
        name=f"list_{kind.path}",
        summary=f"List all {kind.path}, newest first",
        response_model=list[status],  # type: ignore[valid-type]
    )
    def list_runs(settings: Settings, response: Response) -> list[S]:
        """A record that cannot be read is skipped and named in the header `X-Unreadable-Records`."""
        found = statuses(kind, settings.data_dir)
        name_unreadable(kind, settings, response)
        return found

    @router.get(
        f"/{{{kind.name}_id}}",
        name="show",
        summary=f"Show how far {run} is",
        response_model=status,
    )
    def show(run_id: RunId, settings: Settings) -> S:
        return kind.status(settings.data_dir, kind.load(settings.data_dir, run_id))

    async def events(run_id: RunId, settings: Settings) -> AsyncIterator[S]:
        async for changed in changes(lambda: [show(run_id, settings)], kind.active):
            yield changed

    events.__annotations__["return"] = AsyncIterator[status]  # type: ignore[valid-type]
    router.get(
        f"/{{{kind.name}_id}}/events",
        summary=f"Stream the status of {run} at every change, as server-sent events, until it ends",
        response_class=EventSourceResponse,
        dependencies=[Depends(show)],  # an unknown id can be answered by 404 only before the stream begins
    )(events)

    @router.get(
        f"/{{{kind.name}_id}}/report",
        summary="Return the report as HTML, Markdown or JSON, selected by `format` or `Accept`",
        response_class=Response,
        responses={200: {"content": {media_type: {} for media_type in _MEDIA_TYPES}}},
    )
    def report(
        run_id: RunId,
        settings: Settings,
        request: Request,
        format: ReportFormat | None = None,
    ) -> Response:
        found = kind.load(settings.data_dir, run_id)
        directory = kind.record_path(settings.data_dir, kind.name_of(found)).parent
        media_type = preferred_media_type(request, [*_MEDIA_TYPES])
        if format is not None:
            media_type = next(media for media, name in _MEDIA_TYPES.items() if name == format)
        if not (directory / REPORT).exists():
            raise Problem(
                "not-finished",
                409,
                f"{kind.name.capitalize()} {run_id} has no report yet; wait until it is finished.",
            )
        return Response(
            (directory / f"report.{_MEDIA_TYPES[media_type]}").read_bytes(),
            media_type=media_type,
            headers=REPORT_HEADERS,
        )

    @router.post(
        f"/{{{kind.name}_id}}/resume",
        summary=f"Resume {run} after a failure or a cancellation",
        response_model=status,
    )
    def resume(run_id: RunId, settings: Settings, redis: Connection) -> S:
        """Continues where it stopped, and does again what failed."""
        data_dir = settings.data_dir
        resumed = kind.change(data_dir, run_id, partial(kind.resumed, data_dir))
        scheduler.schedule(kind, data_dir, scheduler.job_queue(redis, settings), resumed)
        return kind.status(data_dir, resumed)

    @router.post(
        f"/{{{kind.name}_id}}/cancel",
        summary=f"Cancel a running {kind.name}; what is done stays",
        response_model=status,
    )
    def cancel(run_id: RunId, settings: Settings, redis: Connection) -> S:
        """Safe to retry: nothing changes if it is over already."""
        data_dir = settings.data_dir
        cancelled = scheduler.cancel(kind, data_dir, scheduler.job_queue(redis, settings), run_id)
        return kind.status(data_dir, cancelled)

    @router.delete(
        f"/{{{kind.name}_id}}",
        summary=f"Delete {run} that is over and not in use",
        description=_TO_TRASH if kind.has_trash else _AT_ONCE,
        response_model=status,
    )
    def delete(run_id: RunId, settings: Settings, redis: Connection) -> S:
        return delete_run(kind, settings, run_id, f"/{kind.path}/{run_id}")

    if not kind.has_trash:
        return router

    @router.post(
        f"/{{{kind.name}_id}}/restore",
        summary=f"Bring back {run} that was deleted in the last seven days",
        response_model=status,
    )
    def restore(run_id: RunId, settings: Settings) -> S:
        """Safe to retry."""
        return kind.status(settings.data_dir, kind.restore(settings.data_dir, run_id))

    return router


def create_run(
    kind: Kind[R, S],
    settings: TrainerSettings,
    redis: Redis,
    run_id: str,
    complete: Callable[[], R],
) -> S:
    """Store a run and enqueue its first steps; return the status.

    A request that repeats an idempotency key, and so the id, is answered with the run that exists.
    """
    data_dir = settings.data_dir
    run = kind.create(data_dir, run_id, complete)
    scheduler.schedule(kind, data_dir, scheduler.job_queue(redis, settings), run)
    return kind.status(data_dir, run)


def delete_run(
    kind: Kind[R, S], settings: TrainerSettings, name: str, path: str, *, restorable: bool = True
) -> S:
    """Delete a run and return its last status. Raises ``still-running`` 409 and those of `require_unused`.

    path : of its routes, to name the one that cancels.
    """
    data_dir = settings.data_dir
    last: list[S] = []

    def allow(run: R) -> None:
        last.append(kind.status(data_dir, run))
        if kind.is_active(last[0]):
            # In release 0.1.0, DELETE cancelled a run.
            raise Problem(
                "still-running",
                409,
                f"The {kind.name} is running. DELETE only deletes, since release 0.2.0: cancel it first by "
                f"POST {path}/cancel, or wait until it is over.",
            )
        kind.require_unused(data_dir, run)

    kind.delete(data_dir, name, allow, restorable=restorable)
    return last[0]


def table_response(
    columns: Mapping[str, list[Any]], request: Request, table_format: TableFormat | None, name: str
) -> Response:
    """Return a table in the requested format, or as `Accept` prefers.

    name : of the file that a browser stores, without its ending.
    """
    media_type = preferred_media_type(request, [*TABLE_MEDIA_TYPES])
    if table_format is not None:
        media_type = next(media for media, own in TABLE_MEDIA_TYPES.items() if own == table_format)
    selected = TABLE_MEDIA_TYPES[media_type]
    form: dict[TableFormat, Callable[[Mapping[str, list[Any]]], str | bytes]] = {
        "json": as_json,
        "csv": as_csv,
        "parquet": as_parquet,
    }
    disposition = (
        {} if selected == "json" else {"Content-Disposition": f'attachment; filename="{name}.{selected}"'}
    )
    return Response(form[selected](columns), media_type=media_type, headers=disposition)


def name_unreadable(
    kind: Kind[R, S], settings: TrainerSettings, response: Response, names: Iterable[str] | None = None
) -> None:
    """Name, in a header of a list, the records that the list skipped.

    names : of the runs in the list; default: all of the kind.
    """
    if unreadable := unreadable_names(kind, settings.data_dir, names):
        response.headers[UNREADABLE] = ",".join(map(quote, unreadable))


async def changes(read: Callable[[], list[S]], active: Set[str]) -> AsyncIterator[S]:
    """Yield each status that `read` returns, once at first and then whenever it changes.

    Ends when no status is active, or the run was deleted: a stream that has begun cannot report a problem.

    read : reads files, so a thread runs it. active : states of a run that is not over.
    """
    sent: dict[str, str] = {}
    while True:
        try:
            found = await asyncio.to_thread(read)
        except Problem:
            return
        for status in found:
            if sent.get(status.id) != (text := status.model_dump_json()):
                sent[status.id] = text
                yield status
        if not any(status.state in active for status in found):
            return
        await asyncio.sleep(_EVENT_SECONDS)
