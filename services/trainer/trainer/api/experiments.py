"""Routes of experiments."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from agegender.errors import Problem
from agegender.keys import Scope
from agegender_service.access import needs
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse

from trainer.api.dependencies import Connection, Settings
from trainer.api.events import changes
from trainer.experiments.experiment import Experiment, ExperimentRequest, ExperimentStatus
from trainer.experiments.faces import (
    choose_extraction,
    choose_folds,
    exclusive_labels,
    exclusiveness_warnings,
    labelled,
    load_label_sets,
    require_labels,
    require_validation_parts,
    validation_warnings,
    write_merged,
)
from trainer.experiments.head_start import require_head_start, require_unseen
from trainer.experiments.promote import promote
from trainer.experiments.schedule import cancel_jobs, reconcile
from trainer.experiments.served import (
    HeadComparison,
    compare_with_served,
    require_no_loss,
    require_not_served,
)
from trainer.experiments.store import (
    FAILURE,
    MERGED,
    RECORD,
    REPORT,
    delete_experiment,
    experiment_dir,
    experiment_status,
    experiment_statuses,
    load_experiment,
    new_id,
    save_experiment,
    work_dirs,
)
from trainer.queues import job_queue
from trainer.searches.best import chosen_options, faces_seen_by_search

router = APIRouter(prefix="/experiments", tags=["experiments"])

# The report's own styles, and matplotlib's in its drawings, stand in the page; nothing in it can run.
_REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; "
    "frame-ancestors 'none'"
}
FORMATS = {"json": "application/json", "md": "text/markdown", "html": "text/html"}


@router.post("", status_code=202, summary="Start a cross-validation: one job for each left-out fold")
def create(
    wanted: ExperimentRequest,
    settings: Settings,
    redis: Connection,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> ExperimentStatus:
    data_dir = settings.data_dir
    experiment_id = new_id(idempotency_key)
    if idempotency_key is not None and (experiment_dir(data_dir, experiment_id) / RECORD).exists():
        return experiment_status(data_dir, load_experiment(data_dir, experiment_id))
    experiment = _completed(data_dir, experiment_id, wanted)
    save_experiment(data_dir, experiment)
    reconcile(data_dir, job_queue(redis, settings), experiment)
    return experiment_status(data_dir, experiment)


def _completed(data_dir: Path, experiment_id: str, wanted: ExperimentRequest) -> Experiment:
    chosen = None if wanted.search is None else chosen_options(data_dir, wanted.search)
    options = wanted.training_options(None if chosen is None else chosen[0])
    space, variant = choose_extraction(data_dir, wanted)
    exclusive, exclusiveness = exclusive_labels(data_dir, wanted.datasets, space, variant, wanted.overlap)
    sets = load_label_sets(data_dir, wanted.datasets, space, variant)
    warnings = exclusiveness_warnings(exclusiveness)
    if wanted.start_from is not None:
        require_head_start(data_dir, wanted.start_from, wanted.datasets, space, options)
        warnings += require_unseen(data_dir, wanted.start_from, sets, wanted.overlap)
    chosen_by = None if chosen is None else chosen[1]
    if chosen_by is not None:
        shared = faces_seen_by_search(data_dir, chosen_by, sets)
        chosen_by = chosen_by.model_copy(update={"shared_faces": shared})
    faces = labelled(exclusive, options)
    folds = choose_folds(faces, wanted.folds)
    require_labels(faces, faces.fold, folds, options)
    require_validation_parts(faces, faces.fold, folds)
    warnings += validation_warnings(faces, faces.fold, folds, options.validation)
    if wanted.overlap == "merge":
        write_merged(experiment_dir(data_dir, experiment_id) / MERGED, exclusive)
    return Experiment(
        id=experiment_id,
        created=datetime.now(UTC),
        datasets=wanted.datasets,
        variant=variant,
        space=space,
        folds=folds,
        options=options,
        preset=wanted.preset,
        chosen_by=chosen_by,
        start_from=wanted.start_from,
        refit=wanted.refit,
        overlap=wanted.overlap,
        exclusiveness=exclusiveness,
        warnings=warnings,
    )


@router.get("", summary="All experiments, newest first")
def list_experiments(settings: Settings) -> list[ExperimentStatus]:
    return experiment_statuses(settings.data_dir)


@router.get("/{experiment_id}", summary="How far an experiment is, fold by fold")
def show(experiment_id: str, settings: Settings) -> ExperimentStatus:
    return experiment_status(settings.data_dir, load_experiment(settings.data_dir, experiment_id))


@router.get(
    "/{experiment_id}/events",
    summary="Server-sent events while an experiment runs: its status at every change",
    response_class=EventSourceResponse,
    dependencies=[Depends(show)],  # an unknown id is a 404 only before the stream begins
)
async def events(experiment_id: str, settings: Settings) -> AsyncIterator[ExperimentStatus]:
    async for status in changes(lambda: show(experiment_id, settings)):
        yield status


@router.get(
    "/{experiment_id}/report",
    summary="The report as HTML, Markdown or JSON, by `format` or `Accept`",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in FORMATS.values()}}},
)
def report(
    experiment_id: str,
    settings: Settings,
    request: Request,
    format: Literal["json", "md", "html"] | None = None,
) -> Response:
    experiment = load_experiment(settings.data_dir, experiment_id)
    directory = experiment_dir(settings.data_dir, experiment.id)
    return report_response(directory, f"Experiment {experiment_id}", request, format)


def report_response(
    directory: Path, of: str, request: Request, format: Literal["json", "md", "html"] | None
) -> Response:
    """The report of an experiment or a search. Raises ``not-finished`` 409."""
    chosen = format or _accepted(request.headers.get("accept", ""))
    if not (directory / REPORT).exists():
        raise Problem("not-finished", 409, f"{of} has no report yet; wait until it is finished.")
    content = (directory / f"report.{chosen}").read_bytes()
    return Response(content, media_type=FORMATS[chosen], headers=_REPORT_HEADERS)


def _accepted(accept: str) -> str:
    for form in ("html", "md"):
        if FORMATS[form] in accept:
            return form
    return "json"


@router.post("/{experiment_id}/resume", summary="Go on after a failure or a cancellation, where it stopped")
def resume(experiment_id: str, settings: Settings, redis: Connection) -> ExperimentStatus:
    data_dir = settings.data_dir
    experiment = load_experiment(data_dir, experiment_id).model_copy(update={"cancelled": False})
    for directory in (experiment_dir(data_dir, experiment_id), *work_dirs(data_dir, experiment)):
        (directory / FAILURE).unlink(missing_ok=True)
    save_experiment(data_dir, experiment)
    reconcile(data_dir, job_queue(redis, settings), experiment)
    return experiment_status(data_dir, experiment)


@router.post(
    "/{experiment_id}/refit",
    status_code=202,
    summary="Train on all faces too; promoted is then whichever is better out of fold",
)
def refit(experiment_id: str, settings: Settings, redis: Connection) -> ExperimentStatus:
    data_dir = settings.data_dir
    experiment = load_experiment(data_dir, experiment_id).model_copy(update={"refit": True})
    save_experiment(data_dir, experiment)
    reconcile(data_dir, job_queue(redis, settings), experiment)
    return experiment_status(data_dir, experiment)


@router.post("/{experiment_id}/cancel", summary="Cancel a running experiment; what is trained stays")
def cancel(experiment_id: str, settings: Settings, redis: Connection) -> ExperimentStatus:
    """Of one that is over already nothing changes, so that a repeated request does no harm.

    If only its refits are not done yet, the experiment is finished as it was before them.
    """
    data_dir = settings.data_dir
    experiment = load_experiment(data_dir, experiment_id)
    if experiment_status(data_dir, experiment).state in ("queued", "running"):
        reported = (experiment_dir(data_dir, experiment_id) / REPORT).exists()
        change = {"refit": False, "promote": False} if reported else {"cancelled": True}
        stopped = experiment.model_copy(update=change)
        save_experiment(data_dir, stopped)
        cancel_jobs(job_queue(redis, settings), experiment)
        experiment = stopped
    return experiment_status(data_dir, experiment)


@router.delete("/{experiment_id}", summary="Delete an experiment that is over and is not served")
def delete(experiment_id: str, settings: Settings, redis: Connection) -> ExperimentStatus:
    """Its files are gone then; heads that were promoted from it before stay where they are."""
    data_dir = settings.data_dir
    status = experiment_status(data_dir, load_experiment(data_dir, experiment_id))
    if status.state in ("queued", "running"):
        raise still_running("experiment", f"/experiments/{experiment_id}")
    require_not_served(data_dir, experiment_id)
    delete_experiment(data_dir, experiment_id)
    return status


def still_running(what: str, path: str) -> Problem:
    """What DELETE answers while work runs. It cancelled in release 0.1.0, so it names what does so now."""
    return Problem(
        "still-running",
        409,
        f"The {what} is running. DELETE only deletes, since release 0.2.0: cancel it first by "
        f"POST {path}/cancel, or wait until it is over.",
    )


@router.get(
    "/{experiment_id}/comparison", summary="What promoting would replace: served and new heads compared"
)
def comparison(experiment_id: str, settings: Settings) -> list[HeadComparison]:
    """By number of training faces and, on the same faces, by error; empty where no other head is served."""
    data_dir = settings.data_dir
    return compare_with_served(data_dir, settings.heads_dir, load_experiment(data_dir, experiment_id))


@router.post(
    "/{experiment_id}/promote",
    summary="Serve the heads of a finished experiment from now on",
    dependencies=[Depends(needs(Scope.ADMIN))],
)
def promote_experiment(
    experiment_id: str,
    settings: Settings,
    refit: Annotated[
        bool,
        Query(
            description="train on all faces too, as a job, and serve that from when it is done, where it is "
            "better out of fold"
        ),
    ] = True,
    force: Annotated[
        bool,
        Query(
            description="serve them even if they were trained on less than half as many faces as the served "
            "heads, or their error is larger (`GET /experiments/{id}/comparison`)"
        ),
    ] = False,
) -> dict[str, str]:
    """Gives task → version. What is there is served at once; refits, where not done yet, come after it."""
    data_dir = settings.data_dir
    experiment = load_experiment(data_dir, experiment_id)
    if not force:
        require_no_loss(compare_with_served(data_dir, settings.heads_dir, experiment))
    served = promote(data_dir, experiment)
    if refit:
        # As it is now: it may have been deleted meanwhile.
        experiment = load_experiment(data_dir, experiment_id)
        save_experiment(data_dir, experiment.model_copy(update={"refit": True, "promote": True}))
    return served
