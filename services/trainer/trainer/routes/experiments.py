"""Routes of experiments: create, refit, compare and promote, in addition to the shared ones."""

from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Annotated

from agegender.display import TableFormat
from agegender.keys import Scope
from agegender.spaces import former_default
from agegender_service.guards import needs
from fastapi import Depends, Header, Path, Query, Request, Response

from trainer.datasets.exclusiveness import exclusiveness_warnings
from trainer.experiments.experiment import (
    FACES,
    MERGED,
    Description,
    Experiment,
    ExperimentRequest,
    ExperimentStatus,
    experiment_dir,
    load_experiment,
    refused,
)
from trainer.experiments.experiment_data import (
    choose_extraction,
    choose_folds,
    exclusive_labels,
    labelled,
    load_label_sets,
    record_faces,
    require_labels,
    require_validation_folds,
    validation_warnings,
    write_merged,
)
from trainer.experiments.onnx_graph import as_onnx
from trainer.experiments.predictions import (
    PairedComparison,
    Prediction,
    compare_experiments,
    experiment_columns,
)
from trainer.experiments.promote import promote
from trainer.experiments.served import (
    SERVED,
    HeadComparison,
    compare_with_served,
    heads_named,
    require_no_loss,
    spaces_of_heads,
)
from trainer.experiments.warm_start import require_unseen, require_warm_start
from trainer.jobs import EVALUATIONS, EXPERIMENTS
from trainer.routes.runs import (
    TABLE_MEDIA_TYPES,
    Connection,
    Settings,
    create_run,
    run_routes,
    table_response,
)
from trainer.runs.run import new_id
from trainer.runs.scheduler import job_queue, schedule
from trainer.searches.study import best_options, faces_seen_by_search
from trainer.training.config import mixup_warnings

router = run_routes(EXPERIMENTS, ExperimentStatus)


@router.post("", status_code=202, summary="Start a cross-validation, with one job per held-out fold")
def create(
    request: ExperimentRequest,
    settings: Settings,
    redis: Connection,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> ExperimentStatus:
    """A repeated request with the same `Idempotency-Key` returns the same experiment."""
    experiment_id = new_id(idempotency_key)

    def complete() -> Experiment:
        return _experiment(settings.data_dir, experiment_id, request)

    return create_run(EXPERIMENTS, settings, redis, experiment_id, complete)


@router.post(
    "/{experiment_id}/refit",
    status_code=202,
    summary="Also train on all faces; a promotion then serves whichever is better out of fold",
)
def refit(experiment_id: str, settings: Settings, redis: Connection) -> ExperimentStatus:
    data_dir = settings.data_dir
    experiment = EXPERIMENTS.change(
        data_dir, experiment_id, lambda run: run.model_copy(update={"refit": True})
    )
    schedule(EXPERIMENTS, data_dir, job_queue(redis, settings), experiment)
    return EXPERIMENTS.status(data_dir, experiment)


@router.get(
    "/{experiment_id}/comparison", summary="Compare the served heads with those that a promotion would serve"
)
def comparison(experiment_id: str, settings: Settings) -> list[HeadComparison]:
    """Compares training faces and errors on the same faces. Empty if no other head is served."""
    data_dir = settings.data_dir
    return compare_with_served(data_dir, settings.heads_dir, load_experiment(data_dir, experiment_id))


@router.get(
    "/{experiment_id}/predictions",
    summary="Return the prediction of each face as JSON, CSV or Parquet, selected by `format` or `Accept`",
    response_model=list[Prediction],
    responses={200: {"content": {media_type: {} for media_type in TABLE_MEDIA_TYPES}}},
)
def predictions(
    experiment_id: str, settings: Settings, request: Request, format: TableFormat | None = None
) -> Response:
    """Out of fold: each face is predicted, and calibrated, without its own fold. One row per face."""
    experiment = load_experiment(settings.data_dir, experiment_id)
    columns = experiment_columns(settings.data_dir, experiment)
    return table_response(columns, request, format, f"predictions-{experiment_id}")


@router.get(
    "/{experiment_id}/paired-comparison",
    summary="Compare experiments face by face, with confidence intervals",
)
def paired_comparison(
    experiment_id: str,
    settings: Settings,
    others: Annotated[
        list[str], Query(alias="with", min_length=1, max_length=20, description="ids of other experiments")
    ],
) -> PairedComparison:
    """Uses the faces that all of them predicted out of fold. The best experiment comes first."""
    names = list(dict.fromkeys([experiment_id, *others]))
    if len(names) < 2:
        raise refused("with", "Received one experiment; name another one to compare it with.")
    found = [load_experiment(settings.data_dir, name) for name in names]
    return compare_experiments(settings.data_dir, found)


@router.patch("/{experiment_id}", summary="Name an experiment, or change its notes")
def describe(experiment_id: str, settings: Settings, request: Description) -> ExperimentStatus:
    """A member that is absent stays as it is; null removes it."""
    changes = request.model_dump(include=request.model_fields_set)
    changed = EXPERIMENTS.change(settings.data_dir, experiment_id, lambda run: run.model_copy(update=changes))
    return EXPERIMENTS.status(settings.data_dir, changed)


@router.get(
    "/{experiment_id}/onnx",
    summary="Return heads as one ONNX graph, with their cards in its metadata",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def onnx_graph(
    settings: Settings,
    experiment_id: Annotated[
        str, Path(description="id of a finished experiment or of a calibration, or `served`")
    ],
    space: Annotated[str | None, Query(description="of the served heads, if there are several")] = None,
    coverage: Annotated[float, Query(ge=0.5, le=0.99, description="of the age interval")] = 0.9,
) -> Response:
    """Return a graph with the standardisation, all members and the calibration, as the predictor serves them.

    Input: `embedding` [faces, dimension], of unit length. Outputs: `age_probabilities`, `age_mean`,
    `age_interval`, `age_groups` and `gender_probabilities` (female, male).
    """
    spaces = spaces_of_heads(settings.data_dir, settings.heads_dir)
    if experiment_id not in (SERVED, *EVALUATIONS.names(settings.data_dir)):
        experiment = load_experiment(settings.data_dir, experiment_id)
        spaces = {experiment.space.id: experiment.space}
    elif experiment_id != SERVED:
        judged = EVALUATIONS.load(settings.data_dir, experiment_id)
        spaces = {judged.space.id: judged.space}
    if space is None and len(spaces) == 1:
        (space,) = spaces
    if space not in spaces:
        received = "Received none" if space is None else f"Received {space!r}"
        raise refused(
            "space", f"{received}; expected one of {', '.join(spaces) or 'no space: no heads exist'}."
        )
    heads = heads_named(settings.data_dir, settings.heads_dir, experiment_id, spaces[space])
    return Response(
        as_onnx(heads, round(coverage, 2)),
        media_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{experiment_id}.onnx"'},
    )


@router.post(
    "/{experiment_id}/promote",
    summary="Serve the heads of a finished experiment",
    dependencies=[Depends(needs(Scope.ADMIN))],
)
def promote_experiment(
    experiment_id: str,
    settings: Settings,
    refit: Annotated[
        bool,
        Query(
            description="also train on all faces, as a job, and serve the result if it is better out of fold"
        ),
    ] = True,
    force: Annotated[
        bool,
        Query(
            description="serve the heads even if they were trained on less than half as many faces as the "
            "served heads, or their error is larger (`GET /experiments/{id}/comparison`)"
        ),
    ] = False,
) -> dict[str, str]:
    """Returns task → version. Serves what exists at once, and refits that are still missing later."""
    data_dir = settings.data_dir
    experiment = load_experiment(data_dir, experiment_id)
    if not force:
        require_no_loss(compare_with_served(data_dir, settings.heads_dir, experiment))
    served = promote(data_dir, experiment)
    if refit:
        requested = {"refit": True, "promote": True}
        EXPERIMENTS.change(data_dir, experiment_id, lambda run: run.model_copy(update=requested))
    return served


def _experiment(data_dir: FilePath, experiment_id: str, request: ExperimentRequest) -> Experiment:
    """Check a request against the data and complete it. Raises ``invalid-request`` 422, among others."""
    best = None if request.search is None else best_options(data_dir, request.search)
    options = request.training_options(None if best is None else best[0])
    space, image_set = choose_extraction(data_dir, request)
    exclusive, exclusiveness = exclusive_labels(
        data_dir, request.datasets, space, image_set, request.overlap, request.k
    )
    sets = load_label_sets(data_dir, request.datasets, space, image_set)
    warnings = exclusiveness_warnings(exclusiveness)
    if former := former_default([space.id], f"{' and '.join(request.datasets)} was extracted"):
        warnings.append(former)
    if request.warm_start is not None:
        require_warm_start(data_dir, request.warm_start, request.datasets, space, options)
        warnings += require_unseen(data_dir, request.warm_start, sets, request.overlap)
    chosen_by = None if best is None else best[1]
    if chosen_by is not None:
        shared = faces_seen_by_search(data_dir, chosen_by, sets)
        chosen_by = chosen_by.model_copy(update={"shared_faces": shared})
    faces = labelled(exclusive, options)
    folds = choose_folds(faces, request.folds)
    require_labels(faces, faces.fold, folds, options)
    require_validation_folds(faces, faces.fold, folds)
    warnings += validation_warnings(faces, faces.fold, folds, options.validation)
    if options.augmentation.mixup > 0:
        warnings += mixup_warnings(options, faces.has_age, faces.has_gender)
    directory = experiment_dir(data_dir, experiment_id)
    if request.overlap == "merge" or request.k is not None:
        write_merged(directory / MERGED, exclusive)
    data_sha256 = record_faces(directory / FACES, data_dir, request.datasets, space, image_set, exclusive)
    return Experiment(
        id=experiment_id,
        created=datetime.now(UTC),
        datasets=request.datasets,
        image_set=image_set,
        space=space,
        folds=folds,
        options=options,
        preset=request.preset,
        chosen_by=chosen_by,
        warm_start=request.warm_start,
        refit=request.refit,
        name=request.name,
        notes=request.notes,
        k=request.k,
        overlap=request.overlap,
        exclusiveness=exclusiveness,
        data_sha256=data_sha256,
        warnings=warnings,
    )
