"""Responses of the trainer. Members that these classes do not name are kept."""

from datetime import datetime
from typing import Any

from agegender.spaces import Space
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

ENDED = frozenset({"finished", "failed", "cancelled"})


# Trainers of release 0.1 name these members `kind`, `variant` and `variants`.
_FORMAT = AliasChoices("format", "kind")
_IMAGE_SET = AliasChoices("image_set", "variant")
_IMAGE_SETS = AliasChoices("image_sets", "variants")


def is_search(identifier: str) -> bool:
    """Return whether an id belongs to a search rather than an experiment."""
    return identifier.startswith("search-")


def is_video(identifier: str) -> bool:
    """Return whether an id is that of a video."""
    return identifier.startswith("video-")


def is_evaluation(identifier: str) -> bool:
    """Return whether an id belongs to an evaluation, which may be a calibration."""
    return identifier.startswith("evaluation-")


class _Response(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)


class Pruned(_Response):
    """A run or a head that is old. `kept` is the reason why it was not deleted."""

    kind: str
    id: str
    changed: datetime
    size: int
    kept: str | None = None


class Pruning(_Response):
    dry_run: bool
    freed: int
    found: list[Pruned] = []


class Progress(_Response):
    done: int = 0
    total: int = 0
    images_per_second: float | None = None
    seconds_left: float | None = None


class _OfImageSet(_Response):
    image_set: str = Field(validation_alias=_IMAGE_SET)

    @property
    def variant(self) -> str:
        """Return `image_set`. Deprecated."""
        return self.image_set


class Extraction(_OfImageSet):
    """The extraction of one image set of a data set in one embedding space."""

    dataset: str
    space: Space
    state: str
    images: int = 0
    summary: str = ""
    removed_file: str | None = None
    progress: Progress = Progress()
    problem: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class ExtractedSet(_OfImageSet):
    space: Space
    faces: int
    summary: str = ""
    meta_data: dict[str, Any] = Field(default_factory=dict)


class Dataset(_Response):
    name: str
    format: str | None = Field(None, validation_alias=_FORMAT)
    image_sets: list[str] = Field(default_factory=list, validation_alias=_IMAGE_SETS)
    importable: list[str] = Field(default_factory=list)
    extracted: list[ExtractedSet] = Field(default_factory=list)
    extractions: list[Extraction] = Field(default_factory=list)


class Column(_Response):
    """A column of a table with labels, and examples of its values."""

    name: str
    values: list[str] = []


class ExampleRow(_Response):
    """A row of labels: its cells in the table, and what they are read as."""

    file: str
    cells: dict[str, str] = {}
    age: str = ""
    gender: str = ""
    subject: str = ""
    problem: str | None = None


class Labels(_Response):
    """A reading of a folder's labels, with counts. `written` is the file that was written from them."""

    dataset: str
    format: str
    source: list[str] = []
    columns: list[Column] = []
    file_column: str | None = None
    age_column: str | None = None
    gender_column: str | None = None
    subject_column: str | None = None
    fold_column: str | None = None
    genders: dict[str, str | None] = {}
    examples: list[ExampleRow] = []
    rows: int
    usable: int
    removed: dict[str, int] = {}
    images_without_row: int = 0
    summary: str
    problems: list[str] = []
    ready: bool = False
    written: str | None = None
    removed_file: str | None = None


class LabelExport(_Response):
    """A data set that was described as an image folder of Hugging Face, in the file `written`."""

    dataset: str
    written: str
    rows: int
    summary: str = ""


class DuplicateGroup(_Response):
    """Faces that count as one subject because they are near-duplicates."""

    subject: str
    found_by: str
    files: list[str]
    lowest_cosine: float | None = None


class Fold(_Response):
    """The training of one ensemble. `fold` is None for the refit on all faces."""

    fold: int | None
    state: str
    epoch: int = 0
    epochs: int = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    seconds_left: float | None = None
    problem: str | None = None


class Experiment(_Response):
    id: str
    state: str
    created: datetime
    task: str
    datasets: list[str]
    space: Space
    name: str | None = None
    folds: list[Fold] = Field(default_factory=list)
    refits: list[Fold] = Field(default_factory=list)
    promoted: dict[str, str] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class HeadComparison(_Response):
    """A served head compared with the one that a promotion would serve instead."""

    task: str
    served: str
    served_trained_on: int | None = None
    new_trained_on: int
    served_error: float | None = None
    new_error: float | None = None
    reasons: list[str] = Field(default_factory=list)
    summary: str


class EvaluationResult(_Response):
    """The main figures of one task."""

    version: str
    faces: int
    exact_faces: int | None = None
    mae: float | None = None
    accuracy: float | None = None
    group_accuracy: float | None = None
    coverage: float | None = None
    coverage_after: float | None = None
    new_version: str | None = None

    @property
    def age_error_note(self) -> str:
        """Number of exact ages that the error in years is measured on, unless all faces have one."""
        return "" if self.exact_faces in (None, self.faces) else f" ({self.exact_faces:,} exact)"


class Evaluation(_Response):
    """Heads judged on a data set, and calibrated on it if requested."""

    id: str
    state: str
    dataset: str
    space: Space
    versions: dict[str, str] = Field(default_factory=dict)
    results: dict[str, EvaluationResult] = Field(default_factory=dict)
    recommendation: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    problem: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class VideoResult(_Response):
    """The answer of a video in short."""

    persons: int
    analysed_seconds: float
    complete: bool


class VideoRun(_Response):
    """A video that workers answer once per person."""

    id: str
    state: str
    file: str
    segments: int
    segments_done: int
    seconds: float
    result: VideoResult | None = None
    waiting_for: str | None = None
    warnings: list[str] = Field(default_factory=list)
    problem: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Compared(_Response):
    """An experiment in a comparison, with the options in which it differs from the others."""

    id: str
    name: str | None = None
    age_error: float | None = None
    gender_error: float | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class PairedDifference(_Response):
    first: str
    second: str
    metric: str
    difference: float
    low: float | None = None
    high: float | None = None
    summary: str


class PairedComparison(_Response):
    """Experiments compared on the same faces, the best one first."""

    faces: int
    experiments: list[Compared]
    differences: list[PairedDifference] = Field(default_factory=list)


class Trial(_Response):
    trial: int
    state: str
    value: float | None = None


class Search(_Response):
    """A hyperparameter search."""

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
