"""Routes of evaluations: create one, read its predictions, and serve what a calibration made."""

from typing import Annotated

from agegender.display import TableFormat
from agegender.errors import Problem, not_found
from agegender.files import write_json
from agegender.heads.head import Head, Task, heads_directory, set_current
from agegender.keys import Scope
from agegender_service.guards import needs
from fastapi import Depends, Header, Query, Request, Response

from trainer.datasets.catalog import ExtractedSet, dataset_folder, dataset_in
from trainer.datasets.embedding_set import BadDataset, data_path, file_sha256, read_labels
from trainer.evaluation import REPORTED_COVERAGE
from trainer.evaluations.evaluation import (
    CALIBRATION,
    Evaluation,
    EvaluationRequest,
    EvaluationStatus,
    evaluation_dir,
    known,
    new_evaluation_id,
    why_not_calibrated,
)
from trainer.experiments.experiment import refused
from trainer.experiments.predictions import Prediction, read_predictions
from trainer.experiments.served import heads_named, served_version
from trainer.experiments.warm_start import require_unseen_by
from trainer.jobs import EVALUATIONS
from trainer.routes.runs import (
    TABLE_MEDIA_TYPES,
    Connection,
    Settings,
    create_run,
    run_routes,
    table_response,
)
from trainer.settings import TrainerSettings

router = run_routes(EVALUATIONS, EvaluationStatus)


@router.post("", status_code=202, summary="Judge heads on labelled faces that they never saw")
def create(
    request: EvaluationRequest,
    settings: Settings,
    redis: Connection,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> EvaluationStatus:
    """Rejected (422) if the heads were trained on any of these faces, as far as that can be checked.

    A repeated request with the same `Idempotency-Key` returns the same evaluation.
    """
    evaluation_id = new_evaluation_id(idempotency_key)

    def complete() -> Evaluation:
        return _evaluation(settings, evaluation_id, request)

    return create_run(EVALUATIONS, settings, redis, evaluation_id, complete)


@router.get(
    "/{evaluation_id}/predictions",
    summary="Return the prediction of each face as JSON, CSV or Parquet, selected by `format` or `Accept`",
    response_model=list[Prediction],
    responses={200: {"content": {media_type: {} for media_type in TABLE_MEDIA_TYPES}}},
)
def predictions(
    evaluation_id: str, settings: Settings, request: Request, format: TableFormat | None = None
) -> Response:
    """Return what the judged heads predict for each face."""
    EVALUATIONS.load(settings.data_dir, evaluation_id)
    columns = read_predictions(evaluation_dir(settings.data_dir, evaluation_id))
    if columns is None:
        message = f"Evaluation {evaluation_id} is not finished; wait until it is."
        raise Problem("not-finished", 409, message)
    return table_response(columns, request, format, f"predictions-{evaluation_id}")


@router.post(
    "/{evaluation_id}/promote",
    summary="Serve the heads that a calibration made",
    dependencies=[Depends(needs(Scope.ADMIN))],
)
def promote_calibration(
    evaluation_id: str,
    settings: Settings,
    force: Annotated[
        bool, Query(description="serve them even if their base is not served, or coverage did not improve")
    ] = False,
) -> dict[str, str]:
    """Returns task → version. Safe to retry."""
    data_dir = settings.data_dir
    status = EVALUATIONS.status(data_dir, EVALUATIONS.load(data_dir, evaluation_id))
    versions = {task: one.new_version for task, one in status.results.items() if one.new_version}
    if status.state != "finished" or not versions:
        raise Problem(
            "not-finished",
            409,
            f"Evaluation {evaluation_id} has made no heads: it is {status.state}"
            f"{'' if status.calibrate else ', and no calibration was requested'}.",
        )
    if not force:
        _require_better(settings, status)
    for task, version in versions.items():
        directory = heads_directory(data_dir / "models", task, status.space)
        if not (directory / version / "head.json").is_file():
            raise not_found("head", f"{task.value}/{status.space.id}/{version}")
        set_current(directory, version)
    served = {task.value: version for task, version in versions.items()}
    write_json(evaluation_dir(data_dir, evaluation_id) / CALIBRATION, served)
    return served


def _require_better(settings: TrainerSettings, status: EvaluationStatus) -> None:
    """Raise ``promotion-needs-confirmation`` 409 if the base is not served, or coverage is worse."""
    doubts = []
    for task, one in status.results.items():
        current = served_version(settings.data_dir, settings.heads_dir, task, status.space)
        if one.new_version and current not in (None, one.version, one.new_version):
            doubts.append(f"The {task.value} head that is served is {current}, and not {one.version}.")
        if one.coverage is None or one.coverage_after is None:
            continue
        before, after = (abs(value - REPORTED_COVERAGE) for value in (one.coverage, one.coverage_after))
        if after > before:
            doubts.append(
                f"The coverage of the {REPORTED_COVERAGE:.0%} intervals was {one.coverage:.1%} and would be "
                f"{one.coverage_after:.1%}."
            )
    if doubts:
        raise Problem(
            "promotion-needs-confirmation",
            409,
            f"{' '.join(doubts)} To serve the new heads anyway, repeat the promotion with force=true "
            "(agegender promote ID --force); a rollback undoes it.",
        )


def _evaluation(settings: TrainerSettings, evaluation_id: str, request: EvaluationRequest) -> Evaluation:
    """Check a request against the data and the heads. Raises ``invalid-request`` 422, among others."""
    data_dir = settings.data_dir
    extracted, heads = _selected(settings, request)
    space, image_set = extracted.space, extracted.image_set
    try:
        faces = read_labels(data_dir, request.dataset, space, image_set)
        sha256 = file_sha256(data_path(data_dir, request.dataset, space, image_set))
    except (BadDataset, OSError) as error:
        raise Problem("bad-dataset", 409, f"{error}; extract the data set again.") from error
    judged = {task: head for task, head in heads.items() if known(faces, task).any()}
    if not judged:
        tasks = " or ".join(task.value for task in heads)
        raise refused("dataset", f"No face of {request.dataset} has a known {tasks}.")
    warnings = require_unseen_by(data_dir, judged.values(), request.dataset, sha256, faces)
    if request.calibrate:
        reasons = [reason for task in judged if (reason := why_not_calibrated(faces, task))]
        if len(reasons) == len(judged):
            raise Problem("too-few-faces", 422, " ".join(reasons))
        warnings += reasons
    return Evaluation(
        id=evaluation_id,
        dataset=request.dataset,
        image_set=image_set,
        space=space,
        head=request.head,
        versions={task: head.manifest.version for task, head in judged.items()},
        calibrate=request.calibrate,
        data_sha256={request.dataset: sha256},
        warnings=warnings,
    )


def _selected(settings: TrainerSettings, request: EvaluationRequest) -> tuple[ExtractedSet, dict[Task, Head]]:
    """Return the extracted faces and the heads of their space. Raises ``invalid-request`` 422."""
    try:
        found = dataset_in(dataset_folder(settings.data_dir, request.dataset))
    except Problem as problem:
        raise refused("dataset", problem.detail) from problem
    fitting, reason = [], None
    for one in [] if found is None else found.extracted:
        if request.space in (None, one.space.id) and request.image_set in (None, one.image_set):
            try:
                fitting.append(
                    (one, heads_named(settings.data_dir, settings.heads_dir, request.head, one.space))
                )
            except Problem as problem:
                reason = problem
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        choices = ", ".join(f"{one.space.id}/{one.image_set}" for one, _ in fitting)
        message = f"{request.dataset} was extracted as {choices}; choose a space and an image set."
        raise refused("space", message)
    if reason is not None:
        raise reason
    raise refused(
        "dataset",
        f"{request.dataset} has not been extracted{'' if request.space is None else f' in {request.space}'}; "
        f"POST /datasets/{request.dataset}/extract first.",
    )
