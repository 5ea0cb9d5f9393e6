"""What the trainer answers, as far as a client reads it; further members are kept as they are."""

from datetime import datetime
from typing import Any, Literal

from agegender.spaces import Space
from pydantic import BaseModel, ConfigDict, Field

ENDED = frozenset({"finished", "failed", "cancelled"})

ReportFormat = Literal["html", "md", "json"]


def is_search(identifier: str) -> bool:
    """Whether an id is a search's, and not an experiment's."""
    return identifier.startswith("search-")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class Progress(_Answer):
    done: int = 0
    total: int = 0
    images_per_second: float | None = None
    seconds_left: float | None = None


class Extraction(_Answer):
    """The extraction of one data set in one space."""

    dataset: str
    variant: str
    space: Space
    state: str
    images: int = 0
    summary: str = ""
    progress: Progress = Progress()
    problem: dict[str, Any] | None = None


class ExtractedSet(_Answer):
    space: Space
    variant: str
    faces: int
    summary: str = ""
    meta_data: dict[str, Any] = Field(default_factory=dict)


class Dataset(_Answer):
    name: str
    kind: str | None = None
    variants: list[str] = Field(default_factory=list)
    importable: list[str] = Field(default_factory=list)
    extracted: list[ExtractedSet] = Field(default_factory=list)
    extractions: list[Extraction] = Field(default_factory=list)


class DuplicateGroup(_Answer):
    """Faces that are one subject because they are near-duplicates."""

    subject: str
    found_by: str
    files: list[str]
    lowest_cosine: float | None = None


class Fold(_Answer):
    """One bank of networks; of a refit on all faces, `fold` is None."""

    fold: int | None
    state: str
    epoch: int = 0
    epochs: int = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    seconds_left: float | None = None
    problem: str | None = None


class Experiment(_Answer):
    id: str
    state: str
    created: datetime
    task: str
    datasets: list[str]
    space: Space
    folds: list[Fold] = Field(default_factory=list)
    refits: list[Fold] = Field(default_factory=list)
    promoted: dict[str, str] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class HeadComparison(_Answer):
    """A head that is served now, and the one that a promotion would put in its place."""

    task: str
    served: str
    served_trained_on: int | None = None
    new_trained_on: int
    served_error: float | None = None
    new_error: float | None = None
    reasons: list[str] = Field(default_factory=list)
    summary: str


class Trial(_Answer):
    trial: int
    state: str
    value: float | None = None


class Search(_Answer):
    """A search for hyperparameters."""

    id: str
    state: str
    datasets: list[str]
    trials: list[Trial] = Field(default_factory=list)
    best: dict[str, Any] | None = None
    warnings: list[str] = Field(default_factory=list)
    problem: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED
