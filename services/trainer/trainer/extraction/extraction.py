"""The extraction of a data set in an embedding space: the requests, its record, progress and files.

In <data>/<data set>/<space>:

- extraction-<image set>.json: the record;
- extract-<image set>/: work in progress, removed when the extraction is finished;
    - removed.jsonl, shard-00000.json, …: the labels, divided into shards;
    - <hash of a shard>/chunk-0000.npz, …: responses of the proxy;
    - attempt-<n>-<token>/<step>/: progress and result of each step of an attempt.
"""

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from agegender.errors import Problem
from agegender.faces import WhichFaces
from agegender.files import write_json
from agegender.spaces import Space
from agegender_service.inputs import DEPRECATED, with_new_names
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictBool, computed_field, model_validator

from trainer.datasets.folds import NearDuplicates
from trainer.runs.attempt import PROGRESS, Cancelled
from trainer.runs.run import Run, RunStatus, load_record, read_optional, record_lock, save_record

State = Literal["planning", "extracting", "merging", "finished", "failed", "cancelled"]
ACTIVE: frozenset[str] = frozenset({"planning", "extracting", "merging"})
CHUNK = 32  # images; extraction resumes from the last chunk
RESULT = "result.json"
_FRESH_SECONDS = 60.0  # after which the rate that a shard reported does not count any more

NEAR_DUPLICATES = (
    "which faces become one subject in addition to those that the labels name: `photographs`, copies of one "
    "photograph; `persons`, also faces that a recogniser takes for one person; `off`, none. Default: persons "
    "if the space holds a recogniser's output or subjects_from is given, otherwise photographs"
)
WHICH_FACES = (
    "`found`: images without a face are removed; `found-or-whole`: such an image is one face; `whole`: each "
    "image is one face, for data sets of cropped faces"
)
SUBJECTS_FROM = (
    "id of another space in which these images were extracted; its subjects are used for faces whose labels "
    "name none"
)

VARIED = (
    "embed each face a second time, mirrored and changed at random as prints, scans, cameras and crops would "
    "change it; training uses the second embedding half of the time. Takes twice as long, and precedence "
    "over `mirrored`"
)


class RegroupRequest(BaseModel):
    """`POST /datasets/{name}/regroup`: find subjects and folds again, without embedding."""

    model_config = ConfigDict(extra="forbid")

    image_set: str | None = Field(None, description="the image folder, if several were extracted")
    space: str | None = Field(None, description="id of the space, if the images were extracted in several")
    near_duplicates: NearDuplicates | None = Field(None, description=NEAR_DUPLICATES)
    subjects_from: str | None = Field(None, description=SUBJECTS_FROM)

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, data: Any) -> Any:
        return with_new_names(data, {"variant": "image_set"})


class ExtractionRequest(BaseModel):
    """`POST /datasets/{name}/extract`. Everything has a default."""

    model_config = ConfigDict(extra="forbid")

    image_set: str | None = Field(
        None, description="the image folder, such as Adience's `aligned`; default: the first that exists"
    )
    mirrored: StrictBool = Field(False, description="embed the mirrored image too")
    varied: StrictBool = Field(False, description=VARIED)
    shard_size: int = Field(960, ge=CHUNK, le=20_000, strict=True, description="images per job")
    min_det_score: float | None = Field(
        None,
        ge=0,
        le=1,
        strict=True,
        description="remove faces with a lower detection score; default: that of the data set's format",
    )
    faces: WhichFaces = Field("found", description=WHICH_FACES)
    genders: dict[str, Literal["female", "male"]] = Field(
        default_factory=dict,
        description="for labels.csv only: meaning of other words, or numbers, in its column `gender`",
        examples=[{"0": "male", "1": "female"}],
    )
    near_duplicates: NearDuplicates | None = Field(None, description=NEAR_DUPLICATES)
    subjects_from: str | None = Field(None, description=SUBJECTS_FROM)
    replace: StrictBool = Field(
        False, description="replace a finished extraction that was made with other options"
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, data: Any) -> Any:
        return with_new_names(data, {"variant": "image_set"})


class ExtractionDetails(BaseModel):
    """Common fields of the record and the status of an extraction."""

    dataset: str
    space: Space
    mirrored: bool
    varied: bool = False
    shard_size: int
    min_det_score: float
    which_faces: WhichFaces = Field("found", description=f"`faces` of the request. {WHICH_FACES}")
    genders: dict[str, Literal["female", "male"]] = Field(default_factory=dict)
    near_duplicates: NearDuplicates | None = None
    subjects_from: str | None = None
    regroup: bool = Field(False, description="only subjects and folds are found again; nothing is embedded")
    attempt: int = Field(1, description="how often it was started or resumed")
    run: str = Field(
        "", description="distinguishes this attempt from those of another volume with the same Redis"
    )
    images: int = Field(0, description="to embed; the labels may have removed others")
    shards: int = 0
    faces: int | None = Field(None, description="number extracted; null until it has ended")
    removed: dict[str, int] = Field(
        default_factory=dict, description="rows by reason; until it has ended, those that labels removed"
    )
    removed_examples: dict[str, str] = Field(
        default_factory=dict, description="the first file of each reason, with the cell that is the reason"
    )
    summary: str = Field("", description="the same in one sentence, once the labels have been read")
    problem: dict[str, Any] | None = Field(None, description="why it failed, or what it waits for")
    changed_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Extraction(Run, ExtractionDetails):
    """extraction-<image set>.json. The jobs of the current attempt store their state and outcome in it."""

    id: str = Field("", description="of this data set, image set and space")
    label_format: str = Field(validation_alias=AliasChoices("label_format", "kind"))
    image_set: str = Field(validation_alias=AliasChoices("image_set", "variant"))
    state: State = "planning"

    @property
    def twice(self) -> bool:
        """Return whether each face has a second embedding, of its mirrored or varied image."""
        return self.mirrored or self.varied

    @computed_field(description="former name of `label_format`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def kind(self) -> str:
        return self.label_format

    @computed_field(description="former name of `image_set`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def variant(self) -> str:
        return self.image_set

    @model_validator(mode="before")
    @classmethod
    def _date_old_record(cls, data: Any) -> Any:
        """Release 0.1.0 wrote no `created`."""
        if isinstance(data, dict) and "created" not in data and "changed_at" in data:
            return {**data, "created": data["changed_at"]}
        return data

    @model_validator(mode="after")
    def _derive_id(self) -> "Extraction":
        text = f"{self.dataset}/{self.image_set}/{self.space.id}"
        self.id = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self

    @property
    def name(self) -> str:
        """Return what addresses the record: data set, space and image set, with slashes."""
        return f"{self.dataset}/{self.space.id}/{self.image_set}"

    @property
    def attempt_id(self) -> str:
        return f"{self.attempt}-{self.run}"

    def job_id(self, step: str) -> str:
        return f"extract-{self.id}-{self.attempt_id}-{step}"


class Progress(BaseModel):
    """Images that are done, and the current rate."""

    done: int = Field(description="images embedded or removed")
    total: int
    images_per_second: float | None = Field(None, description="of all workers; null while nothing runs")
    seconds_left: float | None = None


class ExtractionStatus(RunStatus, ExtractionDetails):
    """An extraction and its progress."""

    state: State
    format: str = Field(description="label format")
    image_set: str = Field(description="folder of images")
    removed_file: str | None = Field(
        None, description="file with the names of what was removed, in the data folder; null if nothing was"
    )
    progress: Progress

    @computed_field(description="former name of `format`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def kind(self) -> str:
        return self.format

    @computed_field(description="former name of `image_set`", json_schema_extra=DEPRECATED)  # type: ignore[prop-decorator]
    @property
    def variant(self) -> str:
        return self.image_set

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.space.id}/{self.image_set}"


def record_path(data_dir: Path, dataset: str, space_id: str, image_set: str) -> Path:
    return data_dir / dataset / space_id / f"extraction-{image_set}.json"


def work_dir(data_dir: Path, extraction: Extraction) -> Path:
    return data_dir / extraction.dataset / extraction.space.id / f"extract-{extraction.image_set}"


def attempt_dir(data_dir: Path, extraction: Extraction) -> Path:
    return work_dir(data_dir, extraction) / f"attempt-{extraction.attempt_id}"


def shard_dir(data_dir: Path, extraction: Extraction, shard: int) -> Path:
    return attempt_dir(data_dir, extraction) / f"shard-{shard:05d}"


def shard_path(work: Path, shard: int) -> Path:
    return work / f"shard-{shard:05d}.json"


def removed_path(work: Path) -> Path:
    return work / "removed.jsonl"


def extraction_names(folder: Path) -> Iterator[str]:
    """Yield the names of all extractions of the data set in a folder."""
    for path in sorted(folder.glob("*/extraction-*.json")):
        yield f"{folder.name}/{path.parent.name}/{path.stem.removeprefix('extraction-')}"


def load_extraction(data_dir: Path, name: str) -> Extraction:
    """Read a record. Raises ``not-found`` 404 and ``unreadable-record`` 409."""
    dataset, space_id, image_set = name.split("/")
    return load_record(record_path(data_dir, dataset, space_id, image_set), Extraction, "extraction", name)


def save_extraction(data_dir: Path, extraction: Extraction, **changes: Any) -> Extraction:
    """Store an extraction with some fields changed; return it. Call it with the lock of the record."""
    changed = extraction.model_copy(update={**changes, "changed_at": datetime.now(UTC)})
    save_record(_record(data_dir, changed), changed)
    return changed


def advance(data_dir: Path, extraction: Extraction, **changes: Any) -> Extraction:
    """Change some fields of the stored record, as a step of an extraction's attempt; return the record.

    Raises `Cancelled` if this attempt is over, cancelled, replaced or deleted. The record then stays.
    """
    try:
        lock = record_lock(_record(data_dir, extraction))
        lock.acquire()
    except FileNotFoundError as error:
        raise Cancelled from error
    try:
        latest = current_attempt(data_dir, extraction.name, extraction.attempt_id)
        if latest is None:
            raise Cancelled
        return save_extraction(data_dir, latest, **changes)
    finally:
        lock.release()


def _record(data_dir: Path, extraction: Extraction) -> Path:
    return record_path(data_dir, extraction.dataset, extraction.space.id, extraction.image_set)


def current_attempt(data_dir: Path, name: str, attempt_id: str) -> Extraction | None:
    """Return the extraction, None if this attempt of it is over, cancelled or replaced."""
    try:
        extraction = load_extraction(data_dir, name)
    except Problem:
        return None
    if extraction.attempt_id != attempt_id or extraction.state not in ACTIVE:
        return None
    return extraction


def extraction_status(data_dir: Path, extraction: Extraction) -> ExtractionStatus:
    """Return how far an extraction is."""
    return ExtractionStatus(
        **extraction.model_dump(exclude={"format", "label_format", "cancelled"}),
        format=extraction.label_format,
        removed_file=_removed_file(data_dir, extraction),
        progress=read_progress(data_dir, extraction),
    )


def _removed_file(data_dir: Path, extraction: Extraction) -> str | None:
    """Return the file that lists what an extraction that has ended removed, relative to the data folder."""
    if extraction.state in ACTIVE or not extraction.removed:
        return None
    listed = data_dir / extraction.dataset / extraction.space.id / f"removed-{extraction.image_set}.jsonl"
    paths = (listed, removed_path(work_dir(data_dir, extraction)))
    path = next((path for path in paths if path.is_file()), None)
    return None if path is None else path.relative_to(data_dir).as_posix()


def read_progress(data_dir: Path, extraction: Extraction, now: float | None = None) -> Progress:
    """Return the sum over all shards. Rates that have not been renewed for a minute do not count."""
    if extraction.state == "finished":
        return Progress(done=extraction.images, total=extraction.images)
    paths = attempt_dir(data_dir, extraction).glob(f"shard-*/{PROGRESS}")
    shards = [shard for path in paths if (shard := read_optional(path)) is not None and "done" in shard]
    done = sum(shard["done"] for shard in shards)
    oldest = (time.time() if now is None else now) - _FRESH_SECONDS
    rate = sum(shard["rate"] for shard in shards if shard["rate"] and shard["at"] >= oldest)
    if not rate or extraction.state not in ACTIVE:
        return Progress(done=done, total=extraction.images)
    return Progress(
        done=done,
        total=extraction.images,
        images_per_second=round(rate, 2),
        seconds_left=round((extraction.images - done) / rate, 1),
    )


def shard_is_done(data_dir: Path, extraction: Extraction, shard: int) -> bool:
    return (shard_dir(data_dir, extraction, shard) / RESULT).exists()


def mark_shard_done(data_dir: Path, extraction: Extraction, shard: int, images: int) -> None:
    write_json(shard_dir(data_dir, extraction, shard) / RESULT, {"images": images})
