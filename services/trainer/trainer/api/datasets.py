"""Routes of data sets: what there is, extraction, import."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

from agegender.errors import Problem, not_found
from agegender.spaces import Space
from agegender_service.faces_client import BlockingFacesClient
from fastapi import APIRouter, Depends, Query, Response
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from redis import Redis, RedisError

from trainer.api.dependencies import Connection, Settings
from trainer.datasets.catalog import Dataset, ExtractedSet, dataset_folder, dataset_in, datasets
from trainer.datasets.formats import format_name, require_format
from trainer.datasets.grouping import require_recogniser
from trainer.datasets.original import FORMAT as ORIGINAL
from trainer.datasets.original import original_image_sets
from trainer.datasets.regrouping import contact_sheet, read_groups
from trainer.extraction.progress import Progress, read_progress
from trainer.extraction.schedule import settled, start_lock
from trainer.extraction.state import (
    ACTIVE,
    Extraction,
    ExtractionRequest,
    RegroupRequest,
    read_state,
    states_of,
    write_state,
)
from trainer.jobs.attempts import enqueue_first, has_jobs
from trainer.queues import job_queue
from trainer.settings import TrainerSettings

router = APIRouter(prefix="/datasets", tags=["datasets"])

_EVENT_SECONDS = 0.5
_AWAY_SECONDS = 2.0
_PROXY_PATIENCE = 3.0
_START_SECONDS = 30.0
_DECIDES_FACES = ("kind", "mirrored", "min_det_score", "genders")
_SHARED = (
    "kind",
    "mirrored",
    "shard_size",
    "min_det_score",
    "genders",
    "near_duplicates",
    "subjects_from",
    "regroup",
)


class ExtractionStatus(Extraction):
    """An extraction and how far it is."""

    progress: Progress


class ListedDataset(Dataset):
    """A data set with its running and past extractions."""

    extractions: list[Extraction]


class DatasetStatus(Dataset):
    """A data set, with the progress of its extractions."""

    extractions: list[ExtractionStatus]


class DuplicateGroup(BaseModel):
    """Faces that are one subject because they were found to be near-duplicates."""

    subject: str
    found_by: Literal["photographs", "persons"] = Field(
        description="photographs: all are copies of one photograph; persons: a recogniser takes them for one "
        "person"
    )
    files: list[str]
    lowest_cosine: float | None = Field(
        None, description="of two of its faces, by the recogniser; null where the space has none"
    )


class ImportRequest(BaseModel):
    """Which of the original's files to import. It does not tell its space, so the request names it."""

    model_config = ConfigDict(extra="forbid")

    variant: str | None = Field(None, description="aligned of data-aligned.npy; images of data.npy")
    space: Space = Field(Space(id="original-512", dimension=512))
    replace: StrictBool = Field(False, description="replace what was extracted or imported otherwise before")


def _folder(name: str, settings: Settings) -> Path:
    return dataset_folder(settings.data_dir, name)


Folder = Annotated[Path, Depends(_folder)]


@router.get("", summary="Data sets, what can be extracted of them and what has been")
def list_datasets(settings: Settings) -> list[ListedDataset]:
    return [
        ListedDataset(**vars(found), extractions=list(states_of(settings.data_dir / found.name)))
        for found in datasets(settings.data_dir)
    ]


@router.get("/{name}", summary="One data set, with counts and progress")
def show_dataset(name: str, folder: Folder, settings: Settings, redis: Connection) -> DatasetStatus:
    found = dataset_in(folder)
    if found is None:
        raise not_found("data set", name)
    extractions = [_status(settings, redis, extraction) for extraction in states_of(folder)]
    return DatasetStatus(**vars(found), extractions=extractions)


@router.get(
    "/{name}/events",
    summary="Server-sent events while an extraction runs: its state and progress",
    response_class=EventSourceResponse,
)
async def dataset_events(
    folder: Folder, settings: Settings, redis: Connection
) -> AsyncIterator[ExtractionStatus]:
    told: dict[str, str] = {}
    while True:
        try:
            statuses = await asyncio.to_thread(
                lambda: [_status(settings, redis, one) for one in states_of(folder)]
            )
        except RedisError:  # the stream goes on when Redis is back
            await asyncio.sleep(_AWAY_SECONDS)
            continue
        for status in statuses:
            if told.get(status.id) != (text := status.model_dump_json()):
                told[status.id] = text
                yield status
        if not any(status.state in ACTIVE for status in statuses):
            return
        await asyncio.sleep(_EVENT_SECONDS)


@router.post(
    "/{name}/extract", status_code=202, summary="Extract the faces of a data set, or go on where it stopped"
)
def extract(
    folder: Folder, settings: Settings, redis: Connection, wanted: ExtractionRequest | None = None
) -> ExtractionStatus:
    wanted = wanted or ExtractionRequest()
    kind = require_format(folder).with_gender_map(wanted.genders)
    variant = _one_of(kind.image_sets(folder), wanted.variant)
    with BlockingFacesClient(
        settings.proxy_url, headers=settings.service_headers, patience=_PROXY_PATIENCE
    ) as client:
        space = client.space()
    require_recogniser(space, wanted.near_duplicates, wanted.subjects_from)
    extraction = Extraction(
        dataset=folder.name,
        kind=kind.name,
        variant=variant,
        space=space,
        mirrored=wanted.mirrored,
        shard_size=wanted.shard_size,
        min_det_score=kind.min_det_score if wanted.min_det_score is None else wanted.min_det_score,
        genders=wanted.genders,
        near_duplicates=wanted.near_duplicates,
        subjects_from=wanted.subjects_from,
    )
    with redis.lock(start_lock(extraction), timeout=_START_SECONDS):
        return start(settings, redis, extraction, replace=wanted.replace)


@router.post(
    "/{name}/regroup", status_code=202, summary="Find subjects and folds anew, without embedding again"
)
def regroup(
    folder: Folder, settings: Settings, redis: Connection, options: RegroupRequest | None = None
) -> ExtractionStatus:
    """Complete data sets of an earlier release, or take over subjects that the labels name by now."""
    options = options or RegroupRequest()
    extracted = _extracted(folder, options.space, options.variant)
    require_recogniser(extracted.space, options.near_duplicates, options.subjects_from)
    last = read_state(settings.data_dir, folder.name, extracted.space.id, extracted.image_set)
    known = {} if last is None else last.model_dump(exclude={"id", "problem", "state"})
    extraction = Extraction.model_validate(
        {
            "kind": format_name(extracted.meta_data),
            "mirrored": extracted.meta_data.get("mirrored", False),
            "shard_size": 0,
            "min_det_score": extracted.meta_data.get("min_det_score", 0.0),
            **known,
            "dataset": folder.name,
            "variant": extracted.image_set,
            "space": extracted.space,
            "near_duplicates": options.near_duplicates,
            "subjects_from": options.subjects_from,
            "regroup": True,
            "images": extracted.faces,
        }
    )
    with redis.lock(start_lock(extraction), timeout=_START_SECONDS):
        return start(settings, redis, extraction)


@router.get("/{name}/duplicates", summary="Groups of near-duplicate faces, largest first")
def duplicates(
    folder: Folder, settings: Settings, space: str | None = None, variant: str | None = None
) -> list[DuplicateGroup]:
    extracted = _extracted(folder, space, variant)
    groups = read_groups(settings.data_dir, folder.name, extracted.space, extracted.image_set)
    return [DuplicateGroup.model_validate(group) for group in groups]


@router.get(
    "/{name}/duplicates/sheet",
    summary="The faces of these groups as one JPEG image, a row per group",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
def duplicates_sheet(
    folder: Folder,
    settings: Settings,
    space: str | None = None,
    variant: str | None = None,
    first: Annotated[int, Query(ge=0, description="groups to skip")] = 0,
    groups: Annotated[int, Query(ge=1, le=100, description="groups to draw")] = 30,
) -> Response:
    extracted = _extracted(folder, space, variant)
    found = read_groups(settings.data_dir, folder.name, extracted.space, extracted.image_set)
    image_dir = require_format(folder).image_dir(folder, extracted.image_set)
    content = contact_sheet(image_dir, found[first : first + groups])
    return Response(content, media_type="image/jpeg")


@router.delete("/{name}/extract", summary="Cancel the extractions of a data set; what is done stays")
def cancel_extraction(folder: Folder, settings: Settings, redis: Connection) -> list[ExtractionStatus]:
    return [
        _status(settings, redis, write_state(settings.data_dir, extraction, state="cancelled"))
        for extraction in states_of(folder)
        if extraction.state in ACTIVE
    ]


@router.post("/{name}/import", status_code=202, summary="Import what the original project extracted")
def import_dataset(
    folder: Folder, settings: Settings, redis: Connection, wanted: ImportRequest | None = None
) -> ExtractionStatus:
    wanted = wanted or ImportRequest()
    variants = original_image_sets(folder)
    if not variants:
        raise Problem("no-original", 422, f"There is no data-aligned.npy or data.npy in {folder.name!r}.")
    extraction = Extraction(
        dataset=folder.name,
        kind=ORIGINAL,
        variant=_one_of(variants, wanted.variant),
        space=wanted.space,
        mirrored=False,
        shard_size=0,
        min_det_score=0,
    )
    with redis.lock(start_lock(extraction), timeout=_START_SECONDS):
        return start(settings, redis, extraction, replace=wanted.replace)


def start(
    settings: TrainerSettings, redis: Redis, wanted: Extraction, *, replace: bool = False
) -> ExtractionStatus:
    """Start the next attempt, or answer with the one that runs.

    replace : whether one that finished with other options may be replaced; else ``extraction-exists`` 409.
    """
    queue = job_queue(redis, settings)
    last = read_state(settings.data_dir, wanted.dataset, wanted.space.id, wanted.variant)
    if last is not None and last.state in ACTIVE and has_jobs(queue, last):
        if any(getattr(last, name) != getattr(wanted, name) for name in _SHARED):
            raise Problem(
                "extraction-running",
                409,
                f"An extraction of {wanted.dataset}/{wanted.variant} with other options is running; "
                "cancel it or wait for its end.",
            )
        return _shown(redis, last)
    if last is not None and last.state == "finished" and not replace:
        _require_same_faces(last, wanted)
    attempt = 1 if last is None else last.attempt + 1
    extraction = write_state(settings.data_dir, wanted, attempt=attempt, run=secrets.token_hex(4))
    enqueue_first(queue, extraction)
    return _shown(redis, extraction)


def _require_same_faces(last: Extraction, wanted: Extraction) -> None:
    changes = [
        f"{name} was {getattr(last, name)} and is {getattr(wanted, name)} here"
        for name in _DECIDES_FACES
        if getattr(last, name) != getattr(wanted, name)
    ]
    if changes:
        raise Problem(
            "extraction-exists",
            409,
            f"{wanted.dataset}/{wanted.variant} was extracted in {wanted.space.id} with other options: "
            f"{'; '.join(changes)}. Experiments that were trained on it need its faces as they are. To "
            'replace them, send "replace": true (agegender extract --replace).',
        )


def _extracted(folder: Path, space: str | None, variant: str | None) -> ExtractedSet:
    """The extracted set that a request names; it need not name what there is only one of."""
    found = dataset_in(folder)
    if found is None:
        raise not_found("data set", folder.name)
    fitting = [
        one for one in found.extracted if space in (None, one.space.id) and variant in (None, one.image_set)
    ]
    if len(fitting) == 1:
        return fitting[0]
    choices = ", ".join(f"{one.space.id}/{one.image_set}" for one in found.extracted) or "nothing"
    raise Problem(
        "invalid-request",
        422,
        f"{len(fitting)} extracted sets of {folder.name!r} fit this space and variant; extracted are: "
        f"{choices}.",
    )


def _one_of(variants: list[str], wanted: str | None) -> str:
    if wanted is None:
        return variants[0]
    if wanted not in variants:
        raise not_found("variant", wanted, variants=variants)
    return wanted


def _status(settings: TrainerSettings, redis: Redis, extraction: Extraction) -> ExtractionStatus:
    return _shown(redis, settled(settings.data_dir, job_queue(redis, settings), extraction))


def _shown(redis: Redis, extraction: Extraction) -> ExtractionStatus:
    return ExtractionStatus(**vars(extraction), progress=read_progress(redis, extraction))
