"""Routes of searches."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from agegender.errors import Problem
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.sse import EventSourceResponse

from trainer.api.dependencies import Connection, Settings
from trainer.api.events import changes
from trainer.api.experiments import FORMATS, report_response, still_running
from trainer.datasets.folds import groups_of, unequal
from trainer.experiments.faces import (
    choose_extraction,
    choose_folds,
    exclusive_labels,
    exclusiveness_warnings,
    labelled,
    require_labels,
    require_validation_parts,
    validation_warnings,
    write_merged,
)
from trainer.experiments.request import refused
from trainer.experiments.store import FAILURE, MERGED
from trainer.queues import job_queue
from trainer.searches.faces import require_exact_ages, searched_faces
from trainer.searches.parameters import preset_parameters, require_options
from trainer.searches.schedule import cancel_search_jobs, reconcile_search
from trainer.searches.search import Search, SearchRequest, SearchStatus
from trainer.searches.store import (
    RECORD,
    RESULT,
    delete_search,
    load_search,
    new_search_id,
    read_result,
    save_search,
    search_dir,
    search_status,
    search_statuses,
    trial_dir,
)
from trainer.training.config import preset_options

router = APIRouter(prefix="/searches", tags=["searches"])

_SEEDS = 2  # networks a bank: enough to tell settings apart
_ORIGINAL_EPOCHS = 10  # of its search


@router.post("", status_code=202, summary="Search for hyperparameters: one job for each trial")
def create(
    wanted: SearchRequest,
    settings: Settings,
    redis: Connection,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> SearchStatus:
    data_dir = settings.data_dir
    search_id = new_search_id(idempotency_key)
    if idempotency_key is not None and (search_dir(data_dir, search_id) / RECORD).exists():
        return search_status(data_dir, load_search(data_dir, search_id))
    search = _completed(data_dir, search_id, wanted)
    save_search(data_dir, search)
    reconcile_search(data_dir, job_queue(redis, settings), search)
    return search_status(data_dir, search)


def _completed(data_dir: Path, search_id: str, wanted: SearchRequest) -> Search:
    base = {**preset_options(wanted.preset, wanted.task), "seeds": _SEEDS}
    if wanted.preset == "original":
        base["optimizer"] = {**base["optimizer"], "epochs": _ORIGINAL_EPOCHS}
    options = wanted.training_options(base)
    parameters = wanted.parameters
    if parameters is None:
        parameters = preset_parameters(wanted.preset, wanted.task)
    if not parameters:
        raise refused("parameters", "Nothing varies; name an option, or leave parameters out.")
    require_options(options, parameters)
    space, variant = choose_extraction(data_dir, wanted)
    faces, exclusiveness = exclusive_labels(data_dir, wanted.datasets, space, variant, wanted.overlap)
    folds = choose_folds(labelled(faces, options), None)
    held_out = folds[-1:] if wanted.held_out is None else sorted(set(wanted.held_out))
    if not set(held_out) < set(folds):
        raise refused("held_out", f"The folds are {folds}; some of them, but not all, can be held out.")
    search = Search(
        id=search_id,
        created=datetime.now(UTC),
        datasets=wanted.datasets,
        variant=variant,
        space=space,
        folds=[fold for fold in folds if fold not in held_out],
        held_out=held_out,
        options=options,
        preset=wanted.preset,
        parameters=parameters,
        trials=wanted.trials,
        goal=wanted.goal,
        parts=wanted.parts,
        pruning=wanted.pruning,
        overlap=wanted.overlap,
        exclusiveness=exclusiveness,
        warnings=exclusiveness_warnings(exclusiveness),
    )
    try:
        chosen, part_of = searched_faces(faces, search)
    except Problem as problem:
        raise refused("parts", problem.detail) from problem
    require_labels(chosen, part_of, range(search.parts), options, "part")
    require_exact_ages(chosen, part_of, search)
    require_validation_parts(chosen, part_of, range(search.parts))
    parts = range(search.parts)
    search.warnings.extend(validation_warnings(chosen, part_of, parts, options.validation, "part"))
    if uneven := unequal(part_of, groups_of(chosen.subject)):
        search.warnings.append(uneven.replace("folds", "parts"))
    if wanted.overlap == "merge":
        write_merged(search_dir(data_dir, search_id) / MERGED, faces)
    return search


@router.get("", summary="All searches, newest first")
def list_searches(settings: Settings) -> list[SearchStatus]:
    return search_statuses(settings.data_dir)


@router.get("/{search_id}", summary="How far a search is, trial by trial, and the best so far")
def show(search_id: str, settings: Settings) -> SearchStatus:
    return search_status(settings.data_dir, load_search(settings.data_dir, search_id))


@router.get(
    "/{search_id}/events",
    summary="Server-sent events while a search runs: its status at every change",
    response_class=EventSourceResponse,
    dependencies=[Depends(show)],  # an unknown id is a 404 only before the stream begins
)
async def events(search_id: str, settings: Settings) -> AsyncIterator[SearchStatus]:
    async for status in changes(lambda: show(search_id, settings)):
        yield status


@router.get(
    "/{search_id}/report",
    summary="The trials and the best setting as HTML, Markdown or JSON, by `format` or `Accept`",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in FORMATS.values()}}},
)
def report(
    search_id: str,
    settings: Settings,
    request: Request,
    format: Literal["json", "md", "html"] | None = None,
) -> Response:
    search = load_search(settings.data_dir, search_id)
    return report_response(search_dir(settings.data_dir, search.id), f"Search {search_id}", request, format)


@router.post("/{search_id}/resume", summary="Go on after a failure or a cancellation; failed trials again")
def resume(search_id: str, settings: Settings, redis: Connection) -> SearchStatus:
    data_dir = settings.data_dir
    search = load_search(data_dir, search_id).model_copy(update={"cancelled": False})
    for number in range(search.trials):
        directory = trial_dir(data_dir, search_id, number)
        result = read_result(directory)
        if result is not None and result.state == "failed":
            (directory / RESULT).unlink(missing_ok=True)
    (search_dir(data_dir, search_id) / FAILURE).unlink(missing_ok=True)
    save_search(data_dir, search)
    reconcile_search(data_dir, job_queue(redis, settings), search)
    return search_status(data_dir, search)


@router.post("/{search_id}/cancel", summary="Cancel a running search; what was judged stays")
def cancel(search_id: str, settings: Settings, redis: Connection) -> SearchStatus:
    """Of one that is over already nothing changes, so that a repeated request does no harm."""
    data_dir = settings.data_dir
    search = load_search(data_dir, search_id)
    if search_status(data_dir, search).state in ("queued", "running"):
        search = search.model_copy(update={"cancelled": True})
        save_search(data_dir, search)
        cancel_search_jobs(job_queue(redis, settings), search)
    return search_status(data_dir, search)


@router.delete("/{search_id}", summary="Delete a search that is over")
def delete(search_id: str, settings: Settings, redis: Connection) -> SearchStatus:
    """Its files are gone then; experiments that took its options keep them."""
    data_dir = settings.data_dir
    status = search_status(data_dir, load_search(data_dir, search_id))
    if status.state in ("queued", "running"):
        raise still_running("search", f"/searches/{search_id}")
    delete_search(data_dir, search_id)
    return status
