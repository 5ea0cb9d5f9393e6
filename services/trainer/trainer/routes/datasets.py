"""Routes of data sets: list and show them, and extract, import, regroup, cancel and follow extractions."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from agegender.errors import Problem, not_found
from agegender.spaces import Space
from agegender_service.faces_client import BlockingFacesClient
from agegender_service.inputs import log_deprecated_name, with_new_names
from fastapi import APIRouter, Depends, Query, Response
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from redis import Redis

from trainer.datasets.catalog import (
    Dataset,
    ExtractedSet,
    dataset_folder,
    dataset_in,
    datasets,
    unknown_folders,
)
from trainer.datasets.folds import require_recogniser
from trainer.datasets.formats import format_name, require_format
from trainer.datasets.importing import export_metadata, propose, write_labels
from trainer.datasets.original import FORMAT as ORIGINAL
from trainer.datasets.original import original_image_sets
from trainer.datasets.proposals import LabelChoice, LabelExport, LabelProposal, LabelQuery
from trainer.datasets.regrouping import contact_sheet, read_groups
from trainer.experiments.experiment import Experiment
from trainer.experiments.experiment_data import image_sets_of
from trainer.extraction.extraction import (
    Extraction,
    ExtractionRequest,
    ExtractionStatus,
    RegroupRequest,
    extraction_names,
    load_extraction,
)
from trainer.jobs import EXPERIMENTS, EXTRACTIONS, SEARCHES
from trainer.routes.runs import Connection, Settings, changes, delete_run, name_unreadable
from trainer.runs import scheduler
from trainer.runs.run import Kind, each, statuses
from trainer.searches.search import Search
from trainer.settings import TrainerSettings

router = APIRouter(prefix="/datasets", tags=["datasets"])

_PROXY_SECONDS = 3.0  # for which a request waits for the proxy
_START_SECONDS = 30.0


class DatasetStatus(Dataset):
    """A data set, with the progress of its extractions."""

    extractions: list[ExtractionStatus] = Field(description="running and past extractions")


class DuplicateGroup(BaseModel):
    """Faces that are one subject because they were found to be near-duplicates."""

    subject: str
    found_by: Literal["photographs", "persons"] = Field(
        description="photographs: all are copies of one photograph; persons: a recogniser takes them for one "
        "person"
    )
    files: list[str]
    lowest_cosine: float | None = Field(
        None, description="of two of its faces, by the recogniser; null if the space has none"
    )


class ImportRequest(BaseModel):
    """Which of the original's files to import. The file does not name its space, so the request does."""

    model_config = ConfigDict(extra="forbid")

    image_set: str | None = Field(None, description="aligned for data-aligned.npy; images for data.npy")
    space: Space = Field(Space(id="original-512", dimension=512))
    replace: StrictBool = Field(False, description="replace what was extracted or imported otherwise before")

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, data: Any) -> Any:
        return with_new_names(data, {"variant": "image_set"})


def _folder(name: str, settings: Settings) -> Path:
    return dataset_folder(settings.data_dir, name)


Folder = Annotated[Path, Depends(_folder)]
FormerImageSet = Annotated[str | None, Query(deprecated=True, description="former name of `image_set`")]


@router.get("", summary="List the data sets, what can be extracted from them and what has been")
def list_datasets(
    settings: Settings,
    response: Response,
    all_folders: Annotated[
        bool, Query(description="list also the folders that are no data sets, with the reason")
    ] = False,
) -> list[DatasetStatus]:
    """An extraction whose record cannot be read is skipped and named in `X-Unreadable-Records`."""
    found = list(datasets(settings.data_dir))
    if all_folders:
        found = sorted([*found, *unknown_folders(settings.data_dir)], key=lambda one: one.name)
    listed = [_status(settings, one) for one in found]
    name_unreadable(EXTRACTIONS, settings, response)
    return listed


@router.get("/{name}", summary="Show one data set, with counts and progress")
def show_dataset(name: str, folder: Folder, settings: Settings, response: Response) -> DatasetStatus:
    """An extraction whose record cannot be read is skipped and named in `X-Unreadable-Records`."""
    found = dataset_in(folder)
    if found is None:
        raise not_found("data set", name)
    status = _status(settings, found)
    name_unreadable(EXTRACTIONS, settings, response, extraction_names(folder))
    return status


@router.get(
    "/{name}/events",
    summary="Stream the state and progress of running extractions as server-sent events",
    response_class=EventSourceResponse,
)
async def dataset_events(folder: Folder, settings: Settings) -> AsyncIterator[ExtractionStatus]:
    async for changed in changes(lambda: _extractions(settings, folder.name), EXTRACTIONS.active):
        yield changed


@router.get("/{name}/labels", summary="Propose how the labels in a folder are read, with examples and counts")
def propose_labels(folder: Folder, choice: Annotated[LabelQuery, Query()]) -> LabelProposal:
    """Reads only. Options given are not guessed: `?age_column=years&map=0=female,1=male`."""
    return propose(folder, choice.choice)


@router.post("/{name}/labels", summary="Write labels.csv from the labels in a folder")
def write_dataset_labels(folder: Folder, choice: LabelChoice | None = None) -> LabelProposal:
    """Answers with what was written. A `labels.csv` of your own is kept as `labels.original.csv`."""
    return write_labels(folder, choice)


@router.post(
    "/{name}/labels/export", summary="Write metadata.csv, so that Hugging Face's datasets reads the folder"
)
def export_labels(
    folder: Folder,
    replace: Annotated[bool, Query(description="replace a metadata.csv that is no export")] = False,
) -> LabelExport:
    """Then `load_dataset("imagefolder", data_dir=…)` of Hugging Face's `datasets` reads the folder."""
    return export_metadata(folder, replace=replace)


@router.post(
    "/{name}/extract", status_code=202, summary="Extract the faces of a data set, or resume where it stopped"
)
def extract(
    folder: Folder, settings: Settings, redis: Connection, request: ExtractionRequest | None = None
) -> ExtractionStatus:
    request = request or ExtractionRequest()
    label_format = require_format(folder).with_gender_map(request.genders)
    image_set = _select(label_format.image_sets(folder), request.image_set)
    with BlockingFacesClient(
        settings.proxy_url, headers=settings.service_headers, patience=_PROXY_SECONDS
    ) as client:
        space = client.space()
    require_recogniser(space, request.near_duplicates, request.subjects_from)
    default_score = label_format.min_det_score
    extraction = Extraction(
        dataset=folder.name,
        label_format=label_format.name,
        image_set=image_set,
        space=space,
        mirrored=request.mirrored and not request.varied,
        varied=request.varied,
        shard_size=request.shard_size,
        min_det_score=default_score if request.min_det_score is None else request.min_det_score,
        which_faces=request.faces,
        genders=request.genders,
        near_duplicates=request.near_duplicates,
        subjects_from=request.subjects_from,
    )
    return start(settings, redis, extraction, replace=request.replace)


@router.post("/{name}/regroup", status_code=202, summary="Find subjects and folds again, without embedding")
def regroup(
    folder: Folder, settings: Settings, redis: Connection, options: RegroupRequest | None = None
) -> ExtractionStatus:
    """Completes data sets of an earlier release, or applies subjects that the labels have gained."""
    options = options or RegroupRequest()
    extracted = _extracted(folder, options.space, options.image_set)
    require_recogniser(extracted.space, options.near_duplicates, options.subjects_from)
    extraction = Extraction.model_validate(
        {
            "label_format": format_name(extracted.meta_data),
            "mirrored": extracted.meta_data.get("mirrored", False),
            "varied": extracted.meta_data.get("varied", False),
            "shard_size": 0,
            "min_det_score": extracted.meta_data.get("min_det_score", 0.0),
            "which_faces": extracted.meta_data.get("which_faces", "found"),
            **_last_extraction(settings.data_dir, folder.name, extracted),
            "dataset": folder.name,
            "image_set": extracted.image_set,
            "space": extracted.space,
            "near_duplicates": options.near_duplicates,
            "subjects_from": options.subjects_from,
            "regroup": True,
            "images": extracted.faces,
        }
    )
    return start(settings, redis, extraction)


@router.post(
    "/{name}/import", status_code=202, summary="Import the embeddings that the original project extracted"
)
def import_dataset(
    folder: Folder, settings: Settings, redis: Connection, request: ImportRequest | None = None
) -> ExtractionStatus:
    request = request or ImportRequest()
    image_sets = original_image_sets(folder)
    if not image_sets:
        raise Problem("no-original", 422, f"There is no data-aligned.npy or data.npy in {folder.name!r}.")
    extraction = Extraction(
        dataset=folder.name,
        label_format=ORIGINAL,
        image_set=_select(image_sets, request.image_set),
        space=request.space,
        mirrored=False,
        shard_size=0,
        min_det_score=0,
    )
    return start(settings, redis, extraction, replace=request.replace)


@router.post("/{name}/cancel", summary="Cancel the running extractions of a data set; what is done stays")
def cancel(folder: Folder, settings: Settings, redis: Connection) -> list[ExtractionStatus]:
    """Safe to retry: nothing changes if all are over already. Returns all extractions of the data set."""
    queue = scheduler.job_queue(redis, settings)
    for status in _extractions(settings, folder.name):
        if EXTRACTIONS.is_active(status):
            scheduler.cancel(EXTRACTIONS, settings.data_dir, queue, status.name)
    return _extractions(settings, folder.name)


@router.delete("/{name}/extract", summary="Forget the extractions of a data set that are over")
def delete(folder: Folder, settings: Settings, redis: Connection) -> list[ExtractionStatus]:
    """Removes their records and unfinished work; extracted faces stay. Safe to retry.

    Answers ``still-running`` 409 while one is running.
    """
    found = _extractions(settings, folder.name)
    # Check that none runs before the first is deleted.
    for status in sorted(found, key=EXTRACTIONS.is_active, reverse=True):
        delete_run(EXTRACTIONS, settings, status.name, f"/datasets/{folder.name}")
    return found


@router.get("/{name}/duplicates", summary="List the groups of near-duplicate faces, largest first")
def duplicates(
    folder: Folder,
    settings: Settings,
    space: str | None = None,
    image_set: str | None = None,
    variant: FormerImageSet = None,
) -> list[DuplicateGroup]:
    extracted = _extracted(folder, space, _present(image_set, variant))
    groups = read_groups(settings.data_dir, folder.name, extracted.space, extracted.image_set)
    return [DuplicateGroup.model_validate(group) for group in groups]


@router.get(
    "/{name}/duplicates/sheet",
    summary="Draw the faces of these groups in one JPEG image, a row per group",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
def duplicates_sheet(
    folder: Folder,
    settings: Settings,
    space: str | None = None,
    image_set: str | None = None,
    variant: FormerImageSet = None,
    first: Annotated[int, Query(ge=0, description="groups to skip")] = 0,
    groups: Annotated[int, Query(ge=1, le=100, description="groups to draw")] = 30,
) -> Response:
    extracted = _extracted(folder, space, _present(image_set, variant))
    found = read_groups(settings.data_dir, folder.name, extracted.space, extracted.image_set)
    image_dir = require_format(folder).image_dir(folder, extracted.image_set)
    content = contact_sheet(image_dir, found[first : first + groups])
    return Response(content, media_type="image/jpeg")


def start(
    settings: TrainerSettings, redis: Redis, extraction: Extraction, *, replace: bool = False
) -> ExtractionStatus:
    """Start an extraction as `Extractions.start` does, enqueue its first steps and return its status.

    Raises ``dataset-in-use`` 409 if a queued or running experiment or search uses the faces it would replace.
    """
    begun = [one.id for one in _extractions(settings, extraction.dataset) if EXTRACTIONS.is_active(one)]
    if extraction.id not in begun:
        _require_unused(settings.data_dir, extraction)
    with redis.lock(f"trainer:start:{extraction.id}", timeout=_START_SECONDS):
        started = EXTRACTIONS.start(settings.data_dir, extraction, replace=replace)
    scheduler.schedule(EXTRACTIONS, settings.data_dir, scheduler.job_queue(redis, settings), started)
    return EXTRACTIONS.status(settings.data_dir, started)


def _require_unused(data_dir: Path, extraction: Extraction) -> None:
    kinds: tuple[Kind[Any, Any], ...] = (EXPERIMENTS, SEARCHES)

    def user(kind: Kind[Any, Any], run: Experiment | Search) -> str | None:
        own = image_sets_of(run.datasets, run.image_set).get(extraction.dataset)
        same = own == extraction.image_set and run.space == extraction.space
        return run.id if same and kind.is_active(kind.status(data_dir, run)) else None

    for kind in kinds:
        for name in each(kind, data_dir, partial(user, kind)):
            if name is not None:
                raise Problem(
                    "dataset-in-use",
                    409,
                    f"The {kind.name} {name} uses {extraction.dataset}/{extraction.image_set} and cannot use "
                    "other faces or folds midway. Wait until it is finished, or cancel it by POST "
                    f"/{kind.path}/{name}/cancel.",
                )


def _status(settings: TrainerSettings, dataset: Dataset) -> DatasetStatus:
    return DatasetStatus(**vars(dataset), extractions=_extractions(settings, dataset.name))


def _extractions(settings: TrainerSettings, dataset: str) -> list[ExtractionStatus]:
    """Return the status of a data set's extractions that can be read."""
    names = extraction_names(settings.data_dir / dataset)
    return statuses(EXTRACTIONS, settings.data_dir, names)


def _last_extraction(data_dir: Path, dataset: str, extracted: ExtractedSet) -> dict[str, object]:
    """Return the fields of the record with which a data set was extracted; none if there is no record."""
    try:
        last = load_extraction(data_dir, f"{dataset}/{extracted.space.id}/{extracted.image_set}")
    except Problem as problem:
        if problem.slug != "not-found":
            raise
        return {}
    return last.model_dump(exclude={"problem", "state", "cancelled"})


def _extracted(folder: Path, space: str | None, image_set: str | None) -> ExtractedSet:
    """Return the extracted set of a request, which may omit what there is only one of."""
    found = dataset_in(folder)
    if found is None:
        raise not_found("data set", folder.name)
    fitting = [
        one for one in found.extracted if space in (None, one.space.id) and image_set in (None, one.image_set)
    ]
    if len(fitting) == 1:
        return fitting[0]
    choices = ", ".join(f"{one.space.id}/{one.image_set}" for one in found.extracted) or "nothing"
    raise Problem(
        "invalid-request",
        422,
        f"{len(fitting)} extracted sets of {folder.name!r} fit this space and image set, expected one; "
        f"extracted are: {choices}.",
    )


def _present(image_set: str | None, variant: str | None) -> str | None:
    """Return the option under its present name, or under the one of release 0.1.0, which is logged."""
    if image_set is None and variant is not None:
        log_deprecated_name("variant", "image_set")
        return variant
    return image_set


def _select(image_sets: list[str], requested: str | None) -> str:
    if requested is None:
        return image_sets[0]
    if requested not in image_sets:
        raise not_found("image_set", requested, image_sets=image_sets)
    return requested
