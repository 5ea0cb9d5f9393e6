"""The extraction of one data set in one space: its state and its files.

<data>/<data set>/<space>/extraction-<variant>.json     the state, the truth about the extraction
<data>/<data set>/<space>/extract-<variant>/            work, gone when finished:
    removed.jsonl, shard-00000.json, ...                what the labels gave
    <hash of a shard>/chunk-0000.npz, ... what the proxy gave
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from agegender.files import read_json, write_json
from agegender.spaces import Space
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, computed_field

from trainer.datasets.grouping import NearDuplicates
from trainer.records import skipping_damage

State = Literal["planning", "extracting", "merging", "finished", "failed", "cancelled"]
ACTIVE: frozenset[State] = frozenset({"planning", "extracting", "merging"})
CHUNK = 32


NEAR_DUPLICATES = (
    "which faces become one subject besides those that the labels name: `photographs`, copies of one "
    "photograph; `persons`, also what a face recogniser takes for one person; `off`, none. Default: persons "
    "where the space holds a recogniser's output or subjects_from is given, otherwise photographs"
)
SUBJECTS_FROM = (
    "id of another space in which these images were extracted; its subjects are taken for faces whose labels "
    "name none"
)


class RegroupRequest(BaseModel):
    """`POST /datasets/{name}/regroup`: find subjects and folds anew, without embedding."""

    model_config = ConfigDict(extra="forbid")

    variant: str | None = Field(None, description="the image folder, if several were extracted")
    space: str | None = Field(None, description="id of the space, if the images were extracted in several")
    near_duplicates: NearDuplicates | None = Field(None, description=NEAR_DUPLICATES)
    subjects_from: str | None = Field(None, description=SUBJECTS_FROM)


class ExtractionRequest(BaseModel):
    """What to extract. Everything has a default."""

    model_config = ConfigDict(extra="forbid")

    variant: str | None = Field(
        None, description="the image folder, such as Adience's `aligned`; by default the first that exists"
    )
    mirrored: StrictBool = Field(False, description="embed the mirrored image too")
    shard_size: int = Field(960, ge=CHUNK, le=20_000, strict=True, description="images a job")
    min_det_score: float | None = Field(
        None,
        ge=0,
        le=1,
        strict=True,
        description="faces with a lower detection score are removed; default: that of the kind of data set",
    )
    genders: dict[str, Literal["female", "male"]] = Field(
        default_factory=dict,
        description="labels.csv only: what other words, or numbers, in its column `gender` mean",
        examples=[{"0": "male", "1": "female"}],
    )
    near_duplicates: NearDuplicates | None = Field(None, description=NEAR_DUPLICATES)
    subjects_from: str | None = Field(None, description=SUBJECTS_FROM)
    replace: StrictBool = Field(
        False, description="replace a finished extraction that was made with other options"
    )


class Extraction(BaseModel):
    """An extraction as it is stored."""

    dataset: str
    kind: str
    variant: str
    space: Space
    mirrored: bool
    shard_size: int
    min_det_score: float
    genders: dict[str, Literal["female", "male"]] = Field(default_factory=dict)
    near_duplicates: NearDuplicates | None = None
    subjects_from: str | None = None
    regroup: bool = Field(False, description="only subjects and folds are found anew; nothing is embedded")
    attempt: int = Field(1, description="counts the times it was started or resumed")
    run: str = Field("", description="sets this attempt apart from those of another volume in the same Redis")
    state: State = "planning"
    images: int = Field(0, description="to be embedded; more may have been removed by their labels")
    shards: int = 0
    faces: int | None = Field(None, description="extracted; null until it has ended")
    removed: dict[str, int] = Field(
        default_factory=dict, description="rows by reason; until it has ended those that labels removed"
    )
    removed_examples: dict[str, str] = Field(
        default_factory=dict, description="the first file of each reason"
    )
    summary: str = Field("", description="the same in one sentence, from when the labels have been read")
    problem: dict[str, Any] | None = Field(None, description="why it failed, or what it waits for")
    changed_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @computed_field(description="of this data set, variant and space")  # type: ignore[prop-decorator]
    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.dataset}/{self.variant}/{self.space.id}".encode()).hexdigest()[:16]

    @property
    def attempt_id(self) -> str:
        return f"{self.attempt}-{self.run}"

    def job_id(self, part: str) -> str:
        return f"extract-{self.id}-{self.attempt_id}-{part}"


def state_path(data_dir: Path, dataset: str, space_id: str, variant: str) -> Path:
    return data_dir / dataset / space_id / f"extraction-{variant}.json"


def work_dir(data_dir: Path, extraction: Extraction) -> Path:
    return data_dir / extraction.dataset / extraction.space.id / f"extract-{extraction.variant}"


def shard_path(work: Path, shard: int) -> Path:
    return work / f"shard-{shard:05d}.json"


def removed_path(work: Path) -> Path:
    return work / "removed.jsonl"


def write_state(data_dir: Path, extraction: Extraction, **changes: Any) -> Extraction:
    """Store an extraction with some fields changed."""
    changed = extraction.model_copy(update={**changes, "changed_at": datetime.now(UTC)})
    path = state_path(data_dir, changed.dataset, changed.space.id, changed.variant)
    write_json(path, changed.model_dump(mode="json"))
    return changed


def read_state(data_dir: Path, dataset: str, space_id: str, variant: str) -> Extraction | None:
    """The stored extraction, None where there is none that can be read."""
    try:
        return Extraction.model_validate(read_json(state_path(data_dir, dataset, space_id, variant)))
    except (OSError, ValueError, ValidationError):
        return None


def states_of(folder: Path) -> Iterator[Extraction]:
    """All extractions of the data set in a folder; one whose state cannot be read is left out and logged."""
    for path in sorted(folder.glob("*/extraction-*.json")):
        with skipping_damage(path):
            yield Extraction.model_validate(read_json(path))
