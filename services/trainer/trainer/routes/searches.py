"""Routes of searches: create one, in addition to the shared routes."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from agegender.errors import Problem
from fastapi import Header

from trainer.datasets.exclusiveness import exclusiveness_warnings
from trainer.datasets.folds import groups_of, unequal
from trainer.experiments.experiment import FACES, MERGED, refused
from trainer.experiments.experiment_data import (
    choose_extraction,
    choose_folds,
    exclusive_labels,
    labelled,
    record_faces,
    require_labels,
    require_validation_folds,
    validation_warnings,
    write_merged,
)
from trainer.jobs import SEARCHES
from trainer.routes.runs import Connection, Settings, create_run, run_routes
from trainer.searches.search import (
    Search,
    SearchRequest,
    SearchStatus,
    new_search_id,
    preset_parameters,
    require_exact_ages,
    require_options,
    search_dir,
    searched_faces,
)
from trainer.training.config import mixup_warnings, preset_options

router = run_routes(SEARCHES, SearchStatus)

_SEEDS = 2  # members per ensemble: enough to compare settings
_ORIGINAL_EPOCHS = 10  # of the original project's search


@router.post("", status_code=202, summary="Search for hyperparameters, with one job per trial")
def create(
    request: SearchRequest,
    settings: Settings,
    redis: Connection,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> SearchStatus:
    """A repeated request with the same `Idempotency-Key` returns the same search."""
    search_id = new_search_id(idempotency_key)

    def complete() -> Search:
        return _search(settings.data_dir, search_id, request)

    return create_run(SEARCHES, settings, redis, search_id, complete)


def _search(data_dir: Path, search_id: str, request: SearchRequest) -> Search:
    """Check a request against the data and complete it. Raises ``invalid-request`` 422, among others."""
    base = {**preset_options(request.preset, request.task), "seeds": _SEEDS}
    if request.preset == "original":
        base["optimizer"] = {**base["optimizer"], "epochs": _ORIGINAL_EPOCHS}
    options = request.training_options(base)
    parameters = request.parameters
    if parameters is None:
        parameters = preset_parameters(request.preset, request.task)
    if not parameters:
        raise refused("parameters", "No option varies; name one, or omit parameters.")
    require_options(options, parameters)
    space, image_set = choose_extraction(data_dir, request)
    faces, exclusiveness = exclusive_labels(data_dir, request.datasets, space, image_set, request.overlap)
    folds = choose_folds(labelled(faces, options), None)
    held_out = folds[-1:] if request.held_out is None else sorted(set(request.held_out))
    if not set(held_out) < set(folds):
        raise refused("held_out", f"Received {held_out}; expected some, but not all, of the folds {folds}.")
    search = Search(
        id=search_id,
        created=datetime.now(UTC),
        datasets=request.datasets,
        image_set=image_set,
        space=space,
        folds=[fold for fold in folds if fold not in held_out],
        held_out=held_out,
        options=options,
        preset=request.preset,
        parameters=parameters,
        trials=request.trials,
        goal=request.goal,
        inner_folds=request.inner_folds,
        pruning=request.pruning,
        overlap=request.overlap,
        exclusiveness=exclusiveness,
        warnings=exclusiveness_warnings(exclusiveness),
    )
    try:
        selected, fold_of = searched_faces(faces, search)
    except Problem as problem:
        raise refused("inner_folds", problem.detail) from problem
    inner = range(search.inner_folds)
    require_labels(selected, fold_of, inner, options, "inner fold")
    require_exact_ages(selected, fold_of, search)
    require_validation_folds(selected, fold_of, inner)
    search.warnings.extend(validation_warnings(selected, fold_of, inner, options.validation, "inner fold"))
    if options.augmentation.mixup > 0 or "augmentation.mixup" in parameters:
        search.warnings.extend(mixup_warnings(options, selected.has_age, selected.has_gender))
    if uneven := unequal(fold_of, groups_of(selected.subject)):
        search.warnings.append(uneven.replace("folds", "inner folds"))
    directory = search_dir(data_dir, search_id)
    if request.overlap == "merge":
        write_merged(directory / MERGED, faces)
    data_sha256 = record_faces(directory / FACES, data_dir, request.datasets, space, image_set, faces)
    return search.model_copy(update={"data_sha256": data_sha256})
